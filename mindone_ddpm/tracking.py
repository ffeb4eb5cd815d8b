"""Trackers: where the figures and pictures of a run go. Only the main process has one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image


class Tracker(Protocol):
    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def picture(self, step: int, name: str, picture: Image.Image) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    def scalars(self, step: int, values: dict[str, float]) -> None:
        pass

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker(NoTracker):
    """Event files that ``tensorboard --logdir FOLDER`` shows."""

    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class CsvTracker(NoTracker):
    """One row a step in ``metrics.csv``, written through at once; the columns are those of the first row."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"

    def scalars(self, step: int, values: dict[str, float]) -> None:
        row = {"step": step, **values}
        columns = list(row)
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file))
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


def make_tracker(name: str, folder: Path) -> Tracker:
    """A tracker by name: ``none``, ``tensorboard`` or ``csv``, writing into ``folder``."""
    if name == "tensorboard":
        return TensorBoardTracker(folder)
    return CsvTracker(folder) if name == "csv" else NoTracker()

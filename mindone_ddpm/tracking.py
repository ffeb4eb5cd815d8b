"""Trackers: where the figures and pictures of a run go. Only the main process has one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

# What the loop logs: the first three for every step, the others whenever it asks the device.
SCALARS = (
    "train/loss",
    "train/learning_rate",
    "train/grad_norm",
    "train/images_per_second",
    "train/skipped_updates",
    "train/loss_scale",
)


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
    """Event files that ``tensorboard --logdir FOLDER`` shows; what an earlier start logged after ``step`` is hidden."""

    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class CsvTracker(NoTracker):
    """One row a step in ``metrics.csv``, written through at once; rows after ``step`` are removed at the start."""

    columns = ("step", *SCALARS)

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"
        rows = []
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                # A kill may have cut the last row short.
                rows = [row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) <= step]
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, extrasaction="ignore").writerow({"step": step, **values})


def _is_whole(row: dict[str, str | None]) -> bool:
    return None not in row.values() and str(row["step"]).isdigit()


def make_tracker(name: str, folder: Path, step: int = 0) -> Tracker:
    """A tracker by name: ``none``, ``tensorboard`` or ``csv``, writing into ``folder``, going on after ``step``."""
    if name == "tensorboard":
        return TensorBoardTracker(folder, step)
    return CsvTracker(folder, step) if name == "csv" else NoTracker()

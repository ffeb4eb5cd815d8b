"""The metrics of a run, always written by its main process: ``metrics.jsonl`` in the folder of logs.

One JSON object per line: ``{"step": 10, "train/loss": 0.12, ...}``. The report and the model card read this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from mindone_ddpm.common.files import write_text

METRICS_FILE = "metrics.jsonl"
LAST_STEPS = 50  # of which a mean is shown

Curves = dict[str, dict[int, float]]  # by name, then by step


class MetricsLog:
    """A tracker that appends to the file; what an earlier start logged after ``step`` is removed."""

    def __init__(self, folder: Path, step: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS_FILE
        kept = [json.dumps(values) for values in read_lines(folder) if values["step"] <= step] if step else []
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Images are files of the run."""

    def close(self) -> None:
        """Every line is written at once."""


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects in a folder's file; a line that a kill has cut short is left out."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            if isinstance(values["step"], int):
                yield values
        except (ValueError, KeyError, TypeError):
            continue


def read_curves(folder: Path) -> Curves:
    """All metrics of a run by name and step. What was written last counts."""
    curves: Curves = {}
    for values in read_lines(folder):
        step = values.pop("step")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                curves.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(points.items())) for name, points in curves.items()}


def latest_mean(points: dict[int, float]) -> str:
    """The mean of the last values of a curve, in words."""
    last = list(points.values())[-LAST_STEPS:]
    return f"{sum(last) / len(last):.4g}, mean of the last {len(last)} steps"

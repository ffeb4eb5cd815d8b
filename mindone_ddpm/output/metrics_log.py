"""The metrics of a run: ``metrics.jsonl`` in its folder of logs, written whatever trackers there are.

One JSON object per line: ``{"step": 10, "train/loss": 0.12, ...}``. The report and the model card read this file and no
other.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from mindone_ddpm.common import rotation
from mindone_ddpm.common.files import atomic_path

METRICS_FILE = "metrics.jsonl"
EVALUATED = b'"eval/'  # in the lines of evaluations
MOST_STEPS = 10**15  # a larger number is no step
RECENT_STEPS = 50  # of which a mean is shown

Curves = dict[str, dict[int, float]]  # by name, then by step


class MetricsLog:
    """The tracker that writes the file. A disk that takes no more costs lines, not the run."""

    def __init__(self, folder: Path, step: int = 0, most_bytes: int = rotation.MOST_BYTES):
        """
        Args:
            folder: made if need be.
            step: of a resumed run, which repeats what came after: later lines are removed.
            most_bytes: a longer file is moved to ``metrics.jsonl.1`` and goes on with every second of its older lines,
                and with all metrics of evaluations; see :mod:`mindone_ddpm.common.rotation`.
        """
        self.most_bytes = self.thin_at = most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS_FILE
        with atomic_path(self.path) as tmp_path, open(tmp_path, "wb") as file:
            if step > 0:
                file.writelines(line for values, line in _lines(self.path) if values["step"] <= step)
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (closed by close)
        self.is_broken, self.num_bytes = False, self.path.stat().st_size

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add a line, which is in the file when this returns."""
        line = json.dumps({"step": step, **values}).encode() + b"\n"
        if self.is_broken:
            line = b"\n" + line  # after the part of a line that may be there
        try:
            if not self.path.exists():  # its folder was removed
                self.file.close()
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            complete = self.file.write(line) == len(line)
            reason = "no space left"
        except OSError as error:
            complete, reason = False, error.strerror or str(error)
        if not complete and not self.is_broken:
            tqdm.write(f"warning: {self.path}: cannot be written ({reason}); metrics will be missing", file=sys.stderr)
        self.is_broken = not complete
        self.num_bytes += len(line)
        if complete and self.num_bytes > self.thin_at:
            self._thin()

    def _thin(self) -> None:
        self.file.close()
        with contextlib.suppress(OSError):  # a full disk: it is tried again later
            rotation.thin(self.path, lambda line: EVALUATED in line)
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self.num_bytes = self.path.stat().st_size
        self.thin_at = rotation.next_limit(self.num_bytes, self.most_bytes)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Images are files of the run, not lines."""

    def close(self) -> None:
        self.file.close()


def read_curves(folder: Path) -> Curves:
    """All metrics in a folder of logs, each by step. Where a step is there twice, the later line counts."""
    curves: Curves = {}
    for values, _ in _lines(folder / METRICS_FILE):
        add_values(curves, values)
    return {name: dict(sorted(points.items())) for name, points in curves.items()}


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The metrics of a line, with their step; None where it is damaged."""
    try:
        values = json.loads(line)
        return values if type(values["step"]) is int and abs(values["step"]) <= MOST_STEPS else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def add_values(curves: Curves, values: dict[str, Any]) -> None:
    """Add the metrics of a line to curves."""
    for name, value in values.items():
        if name != "step" and isinstance(value, (int, float)):
            with contextlib.suppress(OverflowError):  # a whole number of more than 300 digits
                curves.setdefault(name, {})[values["step"]] = float(value)


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each complete line, parsed and as it is; a kill or a full disk may have cut some."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for line in file:
            values = parse_line(line)
            if values is not None:
                yield values, line.rstrip(b"\n") + b"\n"


def recent_mean(points: dict[int, float]) -> str:
    """The mean of the last values of a curve, in words."""
    recent = list(points.values())[-RECENT_STEPS:]
    return f"{sum(recent) / len(recent):.4g}, mean of the last {len(recent)} steps"

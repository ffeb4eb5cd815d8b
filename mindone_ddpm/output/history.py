"""Read back what the trackers of a run have written: its curves."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path

Curves = dict[str, dict[int, float]]  # by name, then by step


def read_curves(folder: Path) -> Curves:
    """All figures of a run by name and step, from CSV, JSON lines or TensorBoard, whichever is there.

    What was written last counts: a run that went on from a checkpoint has written some steps twice.
    """
    for read in (_read_csv, _read_json_lines, _read_tensorboard):
        curves: Curves = {}
        for step, name, value in read(folder):
            curves.setdefault(name, {})[step] = value
        if curves:
            return {name: dict(sorted(points.items())) for name, points in curves.items()}
    return {}


def latest_mean(points: dict[int, float]) -> str:
    """The mean of the last values of a curve, in words."""
    last = list(points.values())[-50:]
    return f"{sum(last) / len(last):.4g}, mean of the last {len(last)} steps"


def _read_csv(folder: Path) -> Iterator[tuple[int, str, float]]:
    if (folder / "metrics.csv").is_file():
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = row.pop("step", None)
                yield from (found for name, value in row.items() for found in _values(step, name, value))
    if (folder / "evaluation.csv").is_file():
        with open(folder / "evaluation.csv", newline="", encoding="utf-8") as file:
            for cells in csv.reader(file):
                if len(cells) == 3:
                    yield from _values(*cells)


def _values(step: str | None, name: str | None, value: str | None) -> list[tuple[int, str, float]]:
    """One, or none where a kill has cut the line short."""
    try:
        return [(int(step or ""), name, float(value or ""))] if name is not None else []
    except (TypeError, ValueError):
        return []


def _read_json_lines(folder: Path) -> Iterator[tuple[int, str, float]]:
    if not (folder / "metrics.jsonl").is_file():
        return
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, AttributeError):
            continue  # a kill may have cut the last line short
        yield from ((step, name, float(value)) for name, value in values.items())


def _read_tensorboard(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Of event files: records of a length (8 bytes), a checksum (4), the event, and another checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place + 12 <= len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            record = content[place + 12 : place + 12 + length]
            place += 16 + length
            if len(record) < length:
                break  # still being written, or cut short
            event = Event.FromString(record)
            yield from ((event.step, v.tag, v.simple_value) for v in event.summary.value if v.HasField("simple_value"))

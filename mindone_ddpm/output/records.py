"""Where checkpoints are, and what a checkpoint's record must look like: it may be damaged, or a stranger's.

Free of MindSpore.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mindone_ddpm.common.json_files import read_table

CHECKPOINTS = "checkpoint-*"
STATE_RECORD = "training_state.json"
MOST_BYTES = 64 << 20

Check = Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _is_file_name(name: str) -> bool:
    """Of a file below the checkpoint's folder."""
    path = PurePosixPath(name)
    return bool(name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(value.get("bytes"))
        and isinstance(value.get("sha256"), str)
        and re.fullmatch("[0-9a-f]{64}", value["sha256"]) is not None
    )


def _is_files(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_file_name(name) and _is_file(about) for name, about in value.items())


def is_best(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("figure"), str)
        and _is_number(value.get("value"))
        and _is_count(value.get("step"))
    )


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


REQUIRED: Mapping[str, Check] = {
    "files": _is_files,
    "progress": _is_table,
    "config": _is_table,
    "identity": _is_table,
    "world_size": lambda value: _is_count(value) and value > 0,
}
PROGRESS: Mapping[str, Check] = {name: _is_count for name in ("step", "batch_number", "skips", "samples_seen")}
IN_PROGRESS_SOMETIMES: Mapping[str, Check] = {"best": is_best, "measured": _is_counts}


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of each checkpoint, the oldest first."""
    found = []
    for path in folder.glob(CHECKPOINTS):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and path.is_dir():
            found.append((int(number.group(1)), path))
    return sorted(found)


def read_record(path: Path) -> dict[str, Any]:
    """The record in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no record; the message says what is wrong with it.
    """
    record = read_table(path, MOST_BYTES)
    wrong = [name for name, check in REQUIRED.items() if not check(record.get(name))]
    if not wrong:
        progress = record["progress"]
        wrong = [f"progress.{name}" for name, check in PROGRESS.items() if not check(progress.get(name))]
        given = [(name, check) for name, check in IN_PROGRESS_SOMETIMES.items() if name in progress]
        wrong += [f"progress.{name}" for name, check in given if not check(progress[name])]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} missing or not as expected")
    return record

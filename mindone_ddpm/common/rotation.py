"""Logs of a limited size. Older parts are kept up to a number: ``NAME.1`` is the newest of them.

A run may last for weeks. What a report needs stays in the log itself, with fewer of the older lines.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mindone_ddpm.common.files import atomic_path

MOST_BYTES = 64 << 20  # of a log
KEPT_PARTS = 4
RECENT_LINES = 10_000  # which are never thinned


def parts_of(path: Path) -> list[Path]:
    """The older parts of a log, the newest first."""
    found = [part for part in path.parent.glob(f"{path.name}.*") if part.suffix[1:].isdigit()]
    return sorted(found, key=lambda part: int(part.suffix[1:]))


def make_room(path: Path) -> Path:
    """Rename the older parts of a log, without the last where there are enough; the free name of the newest."""
    for part in reversed(parts_of(path)):
        number = int(part.suffix[1:])
        if number >= KEPT_PARTS:
            part.unlink(missing_ok=True)
        else:
            os.replace(part, path.with_name(f"{path.name}.{number + 1}"))
    return path.with_name(f"{path.name}.1")


def thin(path: Path, is_kept: Callable[[bytes], bool] = lambda line: False, head: int = 0) -> None:
    """Keep a log of lines as its newest part, and halve the log: every second of its older lines stays.

    At every moment there is a whole log at ``path``. It must not be open for writing.

    Args:
        is_kept: whether an older line stays in any case.
        head: so many lines at the beginning stay.

    Raises:
        OSError: the disk is full; the log is as it was.
    """
    part = make_room(path)
    try:
        os.link(path, part)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, part)
    with open(part, "rb") as file:
        recent = sum(1 for _ in file) - RECENT_LINES
    with atomic_path(path) as tmp_path, open(part, "rb") as old, open(tmp_path, "wb") as new:
        for number, line in enumerate(old):
            if number < head or number >= recent or number % 2 == 0 or is_kept(line):
                new.write(line)


def next_limit(num_bytes: int, most_bytes: int) -> int:
    """At what size a log of now ``num_bytes`` is thinned again: not at once, whatever could not be left out."""
    return max(most_bytes, num_bytes + most_bytes // 4)


def cut(path: Path) -> bool:
    """Move what a log holds to its newest part. It may be open in another process that appends; whether it was done.

    A full disk leaves the log as it is.
    """
    part = make_room(path)
    try:
        shutil.copyfile(path, part)
        os.truncate(path, 0)
    except OSError:
        part.unlink(missing_ok=True)
        return False
    return True

"""Files that are no images that can be trained on: which they are, and leaving them out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindone_ddpm.data.images import DataError, decode_image, stored_image
from mindone_ddpm.runtime.start import is_main_by_environment

MOST_NAMED = 10

# Endings of images that the data sets library does not take.
OTHER_ENDINGS = (
    *(
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".svg",
        ".psd",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
    ),
    *(".exr", ".hdr", ".xcf", ".jpe", ".webm"),
)


def say_left_out(what: str, names: Sequence[str]) -> None:
    """A note that names files, on the main rank."""
    if names and is_main_by_environment():
        more = f", and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        print(f"note: {len(names):,} {what}: {', '.join(names[:MOST_NAMED])}{more}", file=sys.stderr)


def find_unreadable(dataset: Any, column: str, max_pixels: int) -> dict[int, str]:
    """Decode every image once. Returns the reason for each one that cannot be decoded, by its index."""

    def problem_of(index: int) -> str | None:
        try:
            decode_image(*stored_image(dataset[index][column], index, column), max_pixels)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(problem_of, range(len(dataset)))
        quiet = not is_main_by_environment()
        problems = list(tqdm(found, "checking images", len(dataset), unit="image", disable=quiet, leave=False))
    return {index: problem for index, problem in enumerate(problems) if problem is not None}


def without_unreadable(dataset: Any, column: str, max_pixels: int) -> Any:
    """A data set without the images that cannot be decoded, which are named.

    Every rank, and every resumed run, finds the same ones. Raises DataError if no image is left.
    """
    problems = find_unreadable(dataset, column, max_pixels)
    if not problems:
        return dataset
    say_left_out("images are left out, because they cannot be read", list(problems.values()))
    if len(problems) == len(dataset):
        raise DataError("no image of the data set can be read")
    return dataset.select([index for index in range(len(dataset)) if index not in problems])


def name_ignored(folder: Path, entries: Sequence[Path], taken: Sequence[str]) -> None:
    """Say which files of a folder look like images but are not taken: kinds that are not read, links to nothing.

    Args:
        entries: all that is below the folder.
        taken: the endings of the files that are taken.
    """
    others = set(OTHER_ENDINGS) - set(taken)
    ignored = [path for path in entries if path.suffix.lower() in others and path.is_file()]
    dangling = [path for path in entries if path.is_symlink() and not path.exists()]
    names = sorted(str(path.relative_to(folder)) for path in [*ignored, *dangling])
    say_left_out("files are left out, of kinds that are not read or links to nothing", names)

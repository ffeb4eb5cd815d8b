"""Starting a job again after a failure, from its last checkpoint, for as long as that gets it any further."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 300.0
MOST_WITHOUT_PROGRESS = 2  # failures in a row, at the same checkpoint, after which it is given up
WRONG_USE = 2  # the exit status that another start would end with too


def newest_checkpoint(folder: Path) -> int:
    """The step of the newest checkpoint in a folder; 0 where there is none."""
    names = [path.name for path in folder.glob("checkpoint-*")] if folder.is_dir() else []
    return max((int(found[1]) for found in map(CHECKPOINT.fullmatch, names) if found), default=0)


def resuming(words: Sequence[str]) -> list[str]:
    """A training's command that goes on from the last checkpoint, or begins where there is none."""
    return [*words, "--no-overwrite_output_dir", "--resume_from_checkpoint", "auto"]


def supervise(
    start: Callable[[bool], tuple[int, bool]],
    folder: Path,
    max_restarts: int,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Run a job, and again after each failure, with twice the pause each time that nothing was gained.

    Args:
        start: runs it to its end, going on from a checkpoint if it is told so; returns its exit status, and whether it
            was asked to stop.
        folder: of its checkpoints.
        sleep: waits so many seconds.

    Returns:
        The last exit status.
    """
    delay_s, failures, restarts = FIRST_DELAY_S, 0, 0
    while True:
        before = newest_checkpoint(folder)
        status, stopped = start(restarts > 0)
        if status in (0, WRONG_USE) or stopped or restarts >= max_restarts:
            if restarts >= max_restarts > 0 and status not in (0, WRONG_USE) and not stopped:
                _say(f"error: given up after {max_restarts} restart(s)")
            return status
        step = newest_checkpoint(folder)
        failures = 0 if step > before else failures + 1
        if failures >= MOST_WITHOUT_PROGRESS:
            where = f"checkpoint-{step}" if step else "its beginning"
            _say(f"error: given up: {failures} starts in a row came no further than {where}")
            return status
        delay_s = FIRST_DELAY_S if failures == 0 else min(2 * delay_s, LONGEST_DELAY_S)
        restarts += 1
        where = f"from checkpoint-{step}" if step else "from the beginning"
        _say(f"starting again {where} in {delay_s:g} s (restart {restarts} of {max_restarts})")
        sleep(delay_s)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""Starting a job again after a failure, from its last checkpoint, for as long as that gets it any further."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
DELAY_S = 5.0
MOST_WITHOUT_PROGRESS = 2  # failures in a row, at the same checkpoint, after which it is given up
# Exit statuses after which nothing is started again: done, wrong use, stopped by Ctrl-C and SIGTERM.
FINAL = (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM)


def checkpoints_in(folder: Path) -> dict[int, float]:
    """The steps of the checkpoints in a folder, and when each was written."""
    found = {}
    for path in folder.glob("checkpoint-*") if folder.is_dir() else ():
        match = CHECKPOINT.fullmatch(path.name)
        if match:
            found[int(match[1])] = path.stat().st_mtime
    return found


def resuming(words: Sequence[str]) -> list[str]:
    """A training's command that goes on from the last checkpoint."""
    return [*words, "--no-overwrite_output_dir", "--resume_from_checkpoint", "auto"]


def again(words: Sequence[str], has_own_checkpoint: bool, began_empty: bool) -> list[str]:
    """The command of another start.

    Args:
        has_own_checkpoint: an earlier start has written one. Those that were there before are not this job's.
        began_empty: the folder held no run before: what is in it now, without a checkpoint, may be replaced.
    """
    if has_own_checkpoint:
        return resuming(words)
    return [*words, "--overwrite_output_dir"] if began_empty else list(words)


def supervise(
    start: Callable[[list[str]], tuple[int, bool]],
    words: Sequence[str],
    folder: Path,
    max_restarts: int,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Run a job, and again after each failure, with twice the pause where nothing was gained.

    Args:
        start: runs a command to its end; returns its exit status, and whether it was asked to stop.
        words: the command.
        folder: of its checkpoints.
        sleep: waits so many seconds.

    Returns:
        The last exit status.
    """
    before = checkpoints_in(folder)
    began_empty = not folder.is_dir() or not any(path.name != "logs" for path in folder.iterdir())
    command, failures, restarts, last = list(words), 0, 0, before
    while True:
        status, stopped = start(command)
        if status in FINAL or stopped or restarts >= max_restarts:
            if restarts >= max_restarts > 0 and status not in FINAL and not stopped:
                _say(f"error: given up after {max_restarts} restart(s)")
            return status
        now = checkpoints_in(folder)
        failures = 0 if now.items() - last.items() else failures + 1
        last, own = now, [step for step, written in now.items() if before.get(step) != written]
        if failures >= MOST_WITHOUT_PROGRESS:
            where = f"checkpoint-{max(own)}" if own else "its beginning"
            _say(f"error: given up: {failures} starts in a row came no further than {where}")
            return status
        restarts += 1
        delay_s = DELAY_S * (2 if failures else 1)
        where = f"from checkpoint-{max(own)}" if own else "from the beginning"
        _say(f"starting again {where} in {delay_s:g} s (restart {restarts} of {max_restarts})")
        sleep(delay_s)
        command = again(words, bool(own), began_empty)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""How far a run is meant to go and how it ended: ``run_state.json`` in its folder.

Written when the run starts and when it ends. Where it still says ``running`` and nobody holds the folder's lock, the
process was killed. How far the run has come is in its metrics log. Free of MindSpore.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from mindone_ddpm.common.errors import first_line
from mindone_ddpm.common.files import write_text
from mindone_ddpm.common.json_files import read_table

STATE_FILE = "run_state.json"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
MOST_BYTES = 1 << 16
MOST_MESSAGE_CHARACTERS = 500


def write_start(folder: Path, total_steps: int, images_per_step: int, ranks: int) -> None:
    """Record that this process trains in a folder. A disk that takes no more costs the record, not the run."""
    about: dict[str, Any] = {"state": RUNNING, "started": time.time(), "total_steps": total_steps}
    about |= {"images_per_step": images_per_step, "ranks": ranks, **_here()}
    _write(folder, about)


def write_end(folder: Path, state: str, error: BaseException | None = None) -> None:
    """Record how the run of this process ended; the record of another process stays as it is."""
    about = read_state(folder)
    if about.get("state") != RUNNING or any(about.get(name) != value for name, value in _here().items()):
        return
    message = "" if error is None else first_line(error)[:MOST_MESSAGE_CHARACTERS]
    _write(folder, {**about, "state": state, "ended": time.time(), "message": message})


def read_state(folder: Path) -> dict[str, Any]:
    """The record; empty where there is none that can be read."""
    try:
        about = read_table(folder / STATE_FILE, MOST_BYTES)
    except (OSError, ValueError):
        return {}
    numbers = ("total_steps", "images_per_step", "ranks", "process")
    wrong = [name for name in numbers if type(about.get(name)) is not int or about[name] < 0]
    return {} if wrong or not isinstance(about.get("state"), str) else about


def _here() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _write(folder: Path, about: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        write_text(folder / STATE_FILE, json.dumps(about) + "\n")

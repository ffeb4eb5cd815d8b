"""Tasks: commands that the studio has started, each in a folder and a process of its own. All state is on disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import mindone_ddpm
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import write_text
from mindone_ddpm.config.values import GRID_FILE
from mindone_ddpm.studio.folder import StudioFolder
from mindone_ddpm.studio.worker import LOG_FILE, STATUS_FILE, TASK_FILE, TASK_NAME, is_starting, read_table, when

PACKAGE = Path(mindone_ddpm.__file__).resolve().parent
IMAGES = "images"  # in a task's folder: what it has made
MOST_SHOWN = 200  # tasks, the newest
LOG_BYTES = 64 << 10  # of the end of a log
OPEN_STATES = ("starting", "waiting", "running")


class Tasks:
    def __init__(self, folder: StudioFolder):
        self.folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []  # only so that none stays as a zombie
        self._lock = threading.Lock()

    def new_folder(self, kind: str) -> Path:
        """A new folder for a task. Raises OSError."""
        self.folder.tasks.mkdir(exist_ok=True)
        while True:
            now = time.time()
            # Their order is that in which they are made.
            name = f"{kind}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now % 1 * 1e6):05x}"
            path = self.folder.tasks / f"{name}{secrets.token_hex(1)[0]}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path

    def start(self, path: Path, arguments: Sequence[str], *, queued: bool, **about: Any) -> str:
        """Start a command in a task's folder; the task's name.

        Args:
            arguments: of ``mindone-ddpm``.
            queued: one after another with the other tasks that are.
            about: more to remember of it, such as the seed.
        """
        task = {"arguments": list(arguments), "cwd": str(self.folder.root), "queued": queued, "created": time.time()}
        write_text(path / TASK_FILE, json.dumps({**task, **about}, ensure_ascii=False) + "\n")
        worker = subprocess.Popen(
            [sys.executable, "-m", "mindone_ddpm.studio.worker", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=own_environment(),
            start_new_session=True,  # it outlives the studio
        )
        with self._lock:
            self._workers.append(worker)
        return path.name

    def path(self, name: str) -> Path:
        """The folder of a task. Raises ConfigError where there is none."""
        path = self.folder.tasks / name
        if not TASK_NAME.fullmatch(name) or not (path / TASK_FILE).is_file():
            raise ConfigError(f"{name[:100]!r}: no such task")
        return path

    def names(self) -> list[str]:
        """The newest first."""
        try:
            names = [name for name in os.listdir(self.folder.tasks) if TASK_NAME.fullmatch(name)]
        except OSError:
            return []
        return sorted(names, key=when, reverse=True)

    def all(self) -> list[dict[str, Any]]:
        with self._lock:
            self._workers = [worker for worker in self._workers if worker.poll() is None]
        found = []
        for name in self.names()[:MOST_SHOWN]:
            with contextlib.suppress(ConfigError):
                found.append(self.about(name))
        return found

    def about(self, name: str) -> dict[str, Any]:
        """What is known of a task, with the images that it has made so far."""
        path = self.path(name)
        task = read_table(path / TASK_FILE)
        arguments = [str(word) for word in task.get("arguments", [])]
        status = read_table(path / STATUS_FILE)
        return {
            "id": name,
            "kind": name.split("-", 1)[0],
            "created": task.get("created", 0),
            "state": self._state(status, task),
            "exit": status.get("exit"),
            "seconds": status.get("changed", time.time()) - task.get("created", time.time()),
            "command": task.get("shown") or shell_text(arguments),
            "images": [self.folder.name_of(file) for file in images_in(path / IMAGES)],
            "last_line": "" if status.get("state") == "done" else last_line(path / LOG_FILE),
            **{key: task.get(key) for key in ("model", "seed", "group", "output_dir", "num_images", "prompts")},
        }

    def log(self, name: str) -> str:
        return end_of_log(self.path(name) / LOG_FILE)

    def stop(self, name: str) -> None:
        """Ask a task to stop, as Ctrl-C would. Raises ConfigError where it is not running."""
        path = self.path(name)
        status = read_table(path / STATUS_FILE)
        if self._state(status, read_table(path / TASK_FILE)) not in ("waiting", "running"):
            raise ConfigError(f"{name}: is not running")
        with contextlib.suppress(ProcessLookupError):
            os.kill(status["process"], signal.SIGTERM)

    def task_of_run(self, output_dir: str) -> str | None:
        """The newest task that has trained into a folder."""
        names = (name for name in self.names() if name.startswith("train-"))
        about = ((name, read_table(self.folder.tasks / name / TASK_FILE)) for name in names)
        return next((name for name, task in about if task.get("output_dir") == output_dir), None)

    def _state(self, status: dict[str, Any], task: dict[str, Any]) -> str:
        if not status:
            return "starting" if is_starting(task) else "lost"
        state = str(status.get("state"))
        return "lost" if state in OPEN_STATES and not is_worker(status.get("process")) else state


def own_environment() -> dict[str, str]:
    """For Python processes that must import this very package, and nothing from the folder that they work in."""
    places = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}


def is_worker(process: Any) -> bool:
    """Whether a process is there, and is one of ours: ids are given again."""
    if type(process) is not int or process <= 0:
        return False
    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and "mindone_ddpm.studio.worker" in found.cmdline()
    except psutil.Error:
        return False


def shell_text(arguments: Sequence[str]) -> str:
    """A command as it is typed."""
    return f"mindone-ddpm {shlex.join(arguments)}"


def images_in(folder: Path) -> list[Path]:
    """The images that a task has made, without the grid of all of them."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix in (".png", ".gif") and not path.name.startswith(".")]
    except OSError:
        return []
    return sorted(path for path in paths if path.name != GRID_FILE)


def end_of_log(path: Path) -> str:
    """The end of a log, as a terminal would show it: of a progress bar, its last state."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            content = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    content = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", content)
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in content.split("\n")]
    return "\n".join(lines).strip("\n")


def last_line(path: Path) -> str:
    lines = [line for line in end_of_log(path).splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""

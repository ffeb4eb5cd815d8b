"""A task's own process: ``python -m mindone_ddpm.studio.worker FOLDER``.

It runs the command that ``task.json`` in its folder names, writes what the command says into ``log.txt`` and how it
ended into ``status.json``. It belongs to no studio: it goes on when that ends, and the next one finds it by its files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindone_ddpm.common import json_files
from mindone_ddpm.common.files import write_text

TASK_FILE, STATUS_FILE, LOG_FILE = "task.json", "status.json", "log.txt"
QUEUE_FILE = ".queue"  # in the folder of all tasks; held by the one task of the queue that runs
TASK_NAME = re.compile(r"[a-z]+-\d{8}-\d{6}-[0-9a-f]{6}")
QUEUE_INTERVAL_S = 0.3
START_S = 30.0  # in which a worker must have written its status
ENDED_BY_SIGNAL = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # also from the page of a run
BAR_INTERVAL_S = "2"  # between the lines of progress bars, which all stay in the log


def read_table(path: Path) -> dict[str, Any]:
    """A JSON file of ours; empty where it is missing or damaged."""
    try:
        return json_files.read_table(path)
    except (OSError, ValueError):
        return {}


def is_alive(process: Any) -> bool:
    return type(process) is int and Path(f"/proc/{process}").exists()


def is_starting(task: dict[str, Any]) -> bool:
    """Whether the worker of a task, which has written no status yet, may still do so."""
    created = task.get("created")
    return isinstance(created, float) and time.time() - created < START_S


def when(name: str) -> str:
    """What the names of tasks are ordered by."""
    return name.split("-", 1)[1]


class Worker:
    def __init__(self, folder: Path):
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        self.child: subprocess.Popen[bytes] | None = None
        self.is_stopped = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        self.say("waiting")
        try:
            with self.queue() if self.about["queued"] else contextlib.nullcontext():
                status = self._run_command()
        except InterruptedError:  # stopped while it waited
            status = -signal.SIGTERM
        state = "done" if status == 0 else "stopped" if self.is_stopped or status in ENDED_BY_SIGNAL else "failed"
        self.say(state, exit=status)
        return 0

    def _run_command(self) -> int:
        if self.is_stopped:
            raise InterruptedError
        command = [sys.executable, "-m", "mindone_ddpm", *self.about["arguments"]]
        environment = {**os.environ, "TQDM_MININTERVAL": BAR_INTERVAL_S, "PYTHONUNBUFFERED": "1"}
        with open(self.folder / LOG_FILE, "ab") as log:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.about["cwd"],
                env=environment,
            )
            self.say("running")
            if self.is_stopped:  # between the check and the start
                self.child.terminate()
            return self.child.wait()

    @contextlib.contextmanager
    def queue(self) -> Iterator[None]:
        """Inside, no other task of the queue runs: two that sample share one device."""
        with open(self.folder.parent / QUEUE_FILE, "w") as file:
            while True:
                if self.is_stopped:
                    raise InterruptedError
                try:
                    if self._is_behind():
                        raise BlockingIOError
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(QUEUE_INTERVAL_S)
            # The child must not keep the lock: files of Python are closed in it.
            yield

    def _is_behind(self) -> bool:
        """Whether a task that was made before this one waits too."""
        own = when(self.folder.name)
        for name in os.listdir(self.folder.parent):
            if TASK_NAME.fullmatch(name) and when(name) < own:
                status = read_table(self.folder.parent / name / STATUS_FILE)
                if status.get("state") == "waiting" and is_alive(status.get("process")):
                    return True
                task = read_table(self.folder.parent / name / TASK_FILE)
                if not status and task.get("queued") and is_starting(task):
                    return True
        return False

    def _stop(self, number: int, _: object) -> None:
        self.is_stopped = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)

    def say(self, state: str, **more: Any) -> None:
        started = self.about.setdefault("worker_started", time.time())
        text = {"state": state, "process": os.getpid(), "started": started, "changed": time.time(), **more}
        write_text(self.folder / STATUS_FILE, json.dumps(text) + "\n")


if __name__ == "__main__":
    sys.exit(Worker(Path(sys.argv[1])).run())

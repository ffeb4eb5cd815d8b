"""A process that has imported the package and its libraries. It forks for each command that it is asked to run.

Importing takes 4 to 5 s of CPU time, longer than most of what the tests run. A child begins with the imports done and
with nothing of MindSpore started: no device, no graph, no random numbers drawn. From there on it does what
`python -m mindone_ddpm` does, its end included.

Each line of standard input is a command as JSON: `arguments`, `environment`, `folder` (where it runs), `stdout` and
`stderr` (files). Two lines on standard output answer it: the process id, and the exit status (that of
`subprocess.Popen.returncode`).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import sys
from pathlib import Path
from typing import TextIO

LIBRARIES = ("datasets", "mindspore.dataset", "mindone.diffusers", "mindone.transformers")


def import_everything() -> None:
    import mindone_ddpm
    import mindone_ddpm.common.environment  # sets variables before MindSpore is imported

    for module in pkgutil.walk_packages(mindone_ddpm.__path__, "mindone_ddpm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)


def become(command: dict) -> None:
    """In the child: its files, folder, environment and arguments."""
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, command["stdout"], os.O_WRONLY | os.O_APPEND),
        (2, command["stderr"], os.O_WRONLY | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    sys.path[0] = command["folder"]
    sys.argv[1:] = command["arguments"]


def serve(answers: TextIO) -> bool:
    """Answer commands. Returns True in the child that is to run one, False when there are no more."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answers.close()
            become(json.loads(line))
            return True
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return False


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print while they are imported
    sys.path[0] = str(Path.cwd())
    import_everything()
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # so that a child's collector does not copy every page
    if serve(answers):
        runpy.run_module("mindone_ddpm", run_name="__main__", alter_sys=True)

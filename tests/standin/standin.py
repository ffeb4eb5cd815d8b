"""Runs programs on the stand-in for CANN, and reads what it wrote down.

python tests/standin/standin.py train --device Ascend ...     runs mindone-ddpm on the stand-in
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from build import PROGRAM_FOLDER, PYTHON_FOLDER, StandInError, build

ROOT = Path(__file__).resolve().parents[2]


class Event(NamedTuple):
    """A line of the trace.

    Attributes:
        kind: ``launch`` of an aclnn operator, ``aclop``, ``copy`` between host and device, ``collective``
            of HCCL, ``mark``.
        name: of the operator or function.
        arguments: types and shapes of the tensors, or how many bytes.
    """

    kind: str
    name: str
    arguments: str


def environment(trace: Path | None = None, npus: int = 1, soc: str = "Ascend910B1") -> dict[str, str]:
    """Environment variables with which MindSpore finds the stand-in, and this package its NPUs.

    Args:
        trace: a file for every launch and copy.
        npus: how many the machine appears to have.
        soc: the NPU's name.

    Raises:
        StandInError: it cannot be built here.
    """
    cann = build()
    devices = cann / f"devices{npus}"
    devices.mkdir(exist_ok=True)
    for number in range(npus):
        (devices / f"davinci{number}").touch()
    names = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
    variables = {
        **dict.fromkeys(names, str(cann)),
        "ASCEND_OPP_PATH": str(cann / "opp"),
        "MINDONE_DDPM_NPU_FOLDER": str(devices),
        "STANDIN_SOC": soc,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{os.environ.get('PATH', os.defpath)}:{cann / PROGRAM_FOLDER}/",
    }
    old = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if os.environ.get(name)}
    variables["LD_LIBRARY_PATH"] = ":".join([str(cann / "lib64"), *filter(None, [old.get("LD_LIBRARY_PATH")])])
    variables["PYTHONPATH"] = ":".join([str(ROOT), str(cann / PYTHON_FOLDER), *filter(None, [old.get("PYTHONPATH")])])
    if trace is not None:
        variables["STANDIN_TRACE"] = str(trace)
    return {**os.environ, **variables}


def run_on_standin(
    *command: object,
    trace: Path | None = None,
    npus: int = 1,
    timeout_s: float = 600,
    cwd: Path | None = None,
    **variables: str,
):
    """A Python command line, such as ``-m mindone_ddpm train``, on the stand-in."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env={**environment(trace, npus), **variables},
    )


def events(trace: Path) -> Iterator[Event]:
    """The trace, in order."""
    with open(trace, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            kind, name, *rest = line.rstrip("\n").split(" ", 2)
            yield Event(kind, name, rest[0] if rest else "")


if __name__ == "__main__":
    try:
        variables = environment(Path(os.environ["STANDIN_TRACE"]) if "STANDIN_TRACE" in os.environ else None)
    except StandInError as error:
        sys.exit(f"error: {error}")
    if "--dry_run" in sys.argv:
        variables.setdefault("STANDIN_COMPUTE", "0")  # the memory of a step is counted, not its result
    os.execve(sys.executable, [sys.executable, "-m", "mindone_ddpm", *sys.argv[1:]], variables)

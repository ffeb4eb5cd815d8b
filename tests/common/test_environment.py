"""Importing the package changes nothing of the process."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import os, sys
before = dict(os.environ), list(sys.meta_path), os.sched_getaffinity(0), set(sys.modules)
{statement}
after = dict(os.environ), list(sys.meta_path), os.sched_getaffinity(0), set(sys.modules)
print([one == other for one, other in zip(before[:3], after[:3])])
print(sorted(name for name in after[3] - before[3] if name.split(".")[0] in ("numpy", "mindspore", "mindone", "datasets")))
"""
LAUNCHED = {"MS_ROLE": "MS_WORKER", "DEVICE_ID": "1", "RANK_ID": "1", "MINDONE_DDPM_LOCAL_RANKS": "2"}


def run(statement: str, **environment: str) -> list[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GLOG", "ONEDNN", "HF_", "TRANSF"))
    }
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**kept, **environment, "PYTHONPATH": str(ROOT)}, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_importing_the_package_changes_nothing():
    assert run("import mindone_ddpm") == ["[True, True, True]", "[]"]
    assert run("import mindone_ddpm", **LAUNCHED) == ["[True, True, True]", "[]"]
    assert run("import mindone_ddpm.cli", **LAUNCHED) == ["[True, True, True]", "[]"]


def test_the_environment_is_set_before_mindspore_is_imported_by_a_module_of_the_package():
    same, _ = run("import mindone_ddpm.training.step\nassert os.environ['GLOG_v'] == '3'")
    assert same.startswith("[False, True")  # the variables; the finder of lazy imports is gone again

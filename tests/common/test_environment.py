"""Importing the package changes nothing of the process."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import os, sys
before = dict(os.environ), os.sched_getaffinity(0), set(sys.modules)
{statement}
after = dict(os.environ), os.sched_getaffinity(0), set(sys.modules)
ours = [finder for finder in sys.meta_path if type(finder).__module__.startswith("mindone_ddpm")]
heavy = {{name.split(".")[0] for name in after[2] - before[2]}} & {{"numpy", "mindspore", "mindone", "datasets"}}
print(before[0] == after[0], before[1] == after[1], ours, sorted(heavy))
"""
LAUNCHED = {"MS_ROLE": "MS_WORKER", "DEVICE_ID": "1", "RANK_ID": "1", "MINDONE_DDPM_LOCAL_RANKS": "2"}


def run(statement: str, **environment: str) -> str:
    names = ("GLOG_v", "ONEDNN_MAX_CPU_ISA", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "MINDONE_DDPM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    kept |= {**environment, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=kept, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_changes_nothing():
    assert run("import mindone_ddpm") == "True True [] []"
    assert run("import mindone_ddpm", **LAUNCHED) == "True True [] []"
    assert run("import mindone_ddpm as md; md.TrainingConfig; md.ConfigError").endswith("True [] []")


def test_the_command_line_sets_variables_and_nothing_else():
    assert run("import mindone_ddpm.cli", **LAUNCHED) == "False True [] []"


def test_variables_are_set_before_mindspore_is_imported_by_a_module_of_the_package():
    said = run("import mindone_ddpm.training.step\nassert os.environ['GLOG_v'] == '3'")
    assert said.startswith("False True []") and "mindspore" in said


def test_a_users_own_values_stay():
    run("import mindone_ddpm.training\nassert os.environ['GLOG_v'] == '1'", GLOG_v="1")

"""Training and sampling on the stand-in for CANN agree with the CPU; `bash scripts/rehearse.sh` shows the figures."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rehearsal
from conftest import ROOT
from PIL import Image
from rehearsal_cases import CASES
from safetensors.numpy import load_file, save_file

from mindone_ddpm import cli
from mindone_ddpm.config.groups import MODES, OPTIMIZERS, SAMPLERS
from mindone_ddpm.jobs.base import BUILT_IN

QUICK = [case for case in CASES if case.quick]
CASE_BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rehearsal")


@pytest.fixture(scope="module")
def rehearsed(folder) -> dict[str, rehearsal.Comparison]:
    """The quick cases, all in one process for each device."""
    return {found.case.name: found for found in rehearsal.rehearse(QUICK, folder)}


@pytest.mark.parametrize("name", [case.name for case in QUICK])
def test_the_standin_agrees_with_the_cpu(rehearsed, name):
    found = rehearsed[name]
    print(*rehearsal.format_row(found))
    assert found.faults == []
    assert found.steps >= 4 and found.losses is not None and found.weights is not None


@pytest.mark.slow
def test_all_cases_agree_with_the_cpu(tmp_path):
    found = rehearsal.rehearse([case for case in CASES if not case.quick], tmp_path)
    rehearsal.print_table(found)
    assert [fault for one in found for fault in one.faults] == []


# --- the comparison can fail ----------------------------------------------------------------------------------------


@pytest.fixture
def copied(rehearsed, folder, tmp_path) -> Path:
    """What the case float32 wrote, to be changed."""
    for device in rehearsal.DEVICES:
        shutil.copytree(folder / device / "float32", tmp_path / device / "float32")
    assert rehearsal.compare(CASE_BY_NAME["float32"], tmp_path).faults == []
    return tmp_path


def change_weights(run: Path) -> None:
    """By two hundredths of what training has moved them."""
    path = run / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    start = load_file(run / "checkpoint-1" / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({name: weights[name] + 0.02 * (weights[name] - start[name]) for name in weights}, path)


def change_loss(run: Path) -> None:
    """By a thousandth, at the last step."""
    path = run / "logs" / "metrics.csv"
    lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[1] = str(float(cells[1]) * 1.001)
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")


def change_counter(run: Path) -> None:
    path = run / "checkpoint-5" / "training_state.safetensors"
    state = load_file(path)
    state["skips"] = np.asarray(state["skips"] + 1, np.int32)
    save_file(state, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_weights, "weights differ by"),
        (change_weights, "is not what it is in run"),  # the resumed run has other bits
        (change_loss, "losses differ by"),
        (change_counter, "skips in checkpoint-5 is 1, on the CPU 0"),
        (lambda run: (run / "logs" / "metrics.csv").unlink(), "not the same files"),
    ],
)
def test_a_difference_is_noticed(copied, change, message):
    change(copied / "Ascend" / "float32" / "run")
    faults = rehearsal.compare(CASE_BY_NAME["float32"], copied).faults
    assert any(message in fault for fault in faults), faults


def test_a_pixel_is_noticed(tmp_path):
    found = rehearsal.Differences()
    pixels = np.zeros((4, 4), np.uint16)
    for name, value in {"a.png": 0, "b.png": 655}.items():
        pixels[1, 2] = value
        Image.fromarray(pixels).save(tmp_path / name)
    rehearsal.compare_file(tmp_path / "a.png", tmp_path / "b.png", found)
    assert found.images == pytest.approx(0.01, rel=1e-3)


# --- the table ------------------------------------------------------------------------------------------------------


def configurations() -> Iterator[tuple[str, object]]:
    """The command and the checked settings of every command line of the table."""
    for case in CASES:
        for command in case.commands:
            # Folders that a case starts from are not there: one that is stands in for them.
            line = [word.format(inputs="{}", out="out").replace("{}", "inputs") for word in command]
            parsed = cli.parse(line)
            config = cli.from_arguments(cli.config_of(line[0]), parsed)
            missing = ("no such folder", "cannot be read")
            problems = [problem for problem in config.problems() if not any(text in problem for text in missing)]
            assert problems == [], f"{case.name}: {problems}"
            yield line[0], config


def test_every_job_optimizer_sampler_and_mode_is_in_the_table():
    found = list(configurations())
    commands = {
        name for name, entry in cli.COMMANDS.items() if entry.config is not None and name not in NOT_ON_A_DEVICE
    }
    assert {command for command, _ in found} == {*BUILT_IN, *commands}
    training = [config for command, config in found if command in BUILT_IN]
    assert {config.optimizer for config in training} == {*OPTIMIZERS}
    assert {config.mixed_precision for config in training} == {"auto", "no", "fp16", "bf16"}
    assert {config.scheduler for command, config in found if command == "sample"} >= {*SAMPLERS}
    for command in {*BUILT_IN, "sample", "evaluate"}:
        assert {config.mode for name, config in found if name == command} == {*MODES}


NOT_ON_A_DEVICE = ("push",)


def test_names_are_given_once():
    assert len(CASE_BY_NAME) == len(CASES)


def test_the_script_lists_cases_and_refuses_others():
    script = ROOT / "tests" / "standin" / "rehearsal.py"
    listed = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [case.name for case in CASES]
    refused = subprocess.run([sys.executable, script, "no-such"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr == "error: no-such: no such case; --list shows them\n"

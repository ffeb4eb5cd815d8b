"""The command line: lists, groups, nearest names, exit statuses; and jobs of other packages in its lists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_program

from mindone_ddpm.cli import COMMANDS, status_of
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.config.parse import from_dict, read_yaml, to_yaml
from mindone_ddpm.jobs.base import BUILT_IN, JOBS, job_of_config

SECONDS_FOR_HELP = 0.5  # 0.2 on an idle machine


def said(*arguments: object, **environment: str) -> tuple[int, list[str]]:
    result = run_program(*arguments, fresh=True, **environment)
    return result.returncode, (result.stdout + result.stderr).splitlines()


def test_every_command_is_listed():
    status, lines = said("--help")
    listed = {line.split()[0] for line in lines if re.match(r"    \w", line)}
    assert status == 0 and {*BUILT_IN, *COMMANDS} <= listed


@pytest.mark.parametrize("command", [*BUILT_IN, "sample", "evaluate"])
def test_help_has_one_line_of_usage_and_groups(command):
    status, lines = said(command, "--help")
    assert status == 0 and lines[0] == f"usage: mindone-ddpm {command} [options]" and lines[1] == ""
    headings = [line for line in lines if re.fullmatch(r"[\w ]+:", line)]
    assert len(headings) > 1
    if command in BUILT_IN:
        assert {"data:", "optimizer:", "checkpoints:", "device and ranks:"} <= set(headings)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--learnin_rate", "3"]])
def test_answers_come_at_once(arguments):
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run_program(*arguments, fresh=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < SECONDS_FOR_HELP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--learnin_rate", 3], "error: --learnin_rate: unknown option; did you mean --learning_rate?"),
        (["train", "--learnin_rate=3"], "error: --learnin_rate: unknown option; did you mean --learning_rate?"),
        (["train", "--zzz"], "error: --zzz: unknown option"),
        (["trian"], "error: trian: unknown command; did you mean train?"),
        (["train_text_to_imag"], "error: train_text_to_imag: unknown command; did you mean train_text_to_image"),
        (["launch", "-n", 0, "train"], "error: -n 0: must be at least 1"),
        (["launch", "-n", 2, "--master_addr", "no such", "train"], "error: --master_addr no such: is no host"),
        (["doctor", "--device", "TPU"], "error: --device TPU: must be one of auto, Ascend, GPU, CPU"),
        (["train", "digits"], "error: digits: belongs to no option"),
        (["train", "--learning_rate"], "error: --learning_rate: expected one argument"),
        (
            ["launch", "-n", 2, "sample"],
            "error: sample: ranks can share train, train_text_to_image, train_",
        ),
        (["preview", "--job", "nothing"], "error: --job nothing: must be one of train, train_text_to_image"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(arguments, message):
    status, lines = said(*arguments)
    assert status == 2 and len(lines) == 1 and lines[0].startswith(message)


def test_several_unknown_flags_are_all_told():
    status, lines = said("train", "--sed", 1, "--devise", "CPU")
    assert status == 2
    assert lines == [
        "error: --sed: unknown option; did you mean --seed?",
        "error: --devise: unknown option; did you mean --device?",
    ]


def entry_point(folder: Path, value: str) -> dict[str, str]:
    """A folder that Python takes for one with an installed package that has a job."""
    about = folder / "others-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[mindone_ddpm.jobs]\ntrain_others = {value}\n")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}


def test_a_job_of_another_package_that_is_broken_harms_nothing_else(tmp_path):
    environment = entry_point(tmp_path, "nowhere:SPEC")
    message = "train_others: the job of nowhere:SPEC cannot be loaded (No module named 'nowhere')"
    status, lines = said("train_others", **environment)
    assert status == 2 and lines == [f"error: {message}"]
    status, lines = said("train_others", "--dataset_name", "digits", **environment)
    assert status == 2 and lines == [f"error: {message}"]
    status, lines = said("launch", "-n", 2, "train_others", "--dataset_name", "digits", **environment)
    assert status == 2 and lines == [f"error: {message}"]
    status, lines = said("--help", **environment)
    assert status == 0 and any("train_others" in line for line in lines)
    status, lines = said("train", "--dataset_name", "digits", "--print_config", **environment)
    assert status == 0 and lines[0] == "dataset_name: digits"


OTHERS = """
from dataclasses import dataclass
from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.jobs.base import JobSpec

@dataclass
class OthersConfig(EngineConfig):
    heading = "others"
    num_others: int = setting(3, "how many others", low=1, resume="locked")

SPEC = JobSpec(OthersConfig, "others:OthersJob", "train on others")
NO_SPEC = JobSpec(dict, "others:OthersJob", "train on others")
"""


def test_a_job_of_another_package_is_in_every_list(tmp_path):
    environment = entry_point(tmp_path, "others:SPEC")
    (tmp_path / "others.py").write_text(OTHERS)
    status, lines = said("--help", **environment)
    assert status == 0 and any(re.fullmatch(r" +train_others +train on others", line) for line in lines)
    status, lines = said("train_others", "--help", **environment)
    assert status == 0 and lines[0] == "usage: mindone-ddpm train_others [options]" and "others:" in lines
    assert any(line.startswith("  --num_others INT") for line in lines)
    status, lines = said("train_others", "--dataset_name", "digits", "--num_other", 3, **environment)
    assert status == 2 and lines == ["error: --num_other: unknown option; did you mean --num_others?"]
    status, lines = said("train_others", "--dataset_name", "digits", "--num_others", 0, **environment)
    assert status == 2 and lines == ["error: --num_others 0: must be at least 1"]
    status, lines = said("train_other", **environment)
    assert status == 2 and lines == ["error: train_other: unknown command; did you mean train_others?"]
    status, lines = said("preview", "--job", "train_others", "--help", **environment)
    assert status == 0 and "others:" in lines
    status, lines = said("launch", "-n", 2, "what", **environment)
    assert status == 2 and "train, train_text_to_image, " in lines[0] and ", train_others, evaluate, or a" in lines[0]


def test_a_job_whose_configuration_lacks_the_common_settings(tmp_path):
    environment = entry_point(tmp_path, "others:NO_SPEC")
    (tmp_path / "others.py").write_text(OTHERS)
    status, lines = said("train_others", **environment)
    assert status == 2 and len(lines) == 1 and "does not inherit EngineConfig" in lines[0]


def test_a_built_in_job_is_not_replaced(tmp_path):
    environment = entry_point(tmp_path, "nowhere:SPEC")
    points = tmp_path / "others-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("train_others", "train"))
    status, lines = said("train", "--dataset_name", "digits", "--print_config", **environment)
    assert status == 0 and lines[0] == "dataset_name: digits"


def test_a_spec_names_a_class_that_is_there():
    import importlib

    for name, spec in JOBS.items():
        module, _, attribute = spec.target.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name
        assert spec.config().heading


@pytest.mark.parametrize("command", [*BUILT_IN])
def test_a_run_says_which_job_made_it(command, tmp_path):
    config_class, path = JOBS[command].config, tmp_path / "training_config.yaml"
    config = config_class(dataset_name="digits", output_dir=str(tmp_path))
    path.write_text(to_yaml(config, command))
    assert path.read_text().splitlines()[0] == f"# mindone-ddpm {command}"
    problems: list[str] = []
    assert from_dict(config_class, read_yaml(str(path), config_class, problems)) == config and problems == []
    assert job_of_config(path) == command
    path.write_text(to_yaml(config))  # as version 0.1 wrote it
    assert job_of_config(path) == command
    path.write_text(to_yaml(config, "train_others"))
    with pytest.raises(ConfigError, match="the job train_others, which is not installed here"):
        job_of_config(path)
    path.write_text("no_such_setting: 1\n")
    with pytest.raises(ConfigError, match="holds the settings of no job"):
        job_of_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        job_of_config(tmp_path / "nothing.yaml")
    assert "hub_token" in config_class.__dataclass_fields__ and "hub_token" not in as_dict(config)


def test_a_working_directory_that_was_removed(tmp_path):
    """MindSpore would end the process by SIGABRT, after 75 lines."""
    (tmp_path / "gone").mkdir()
    command = f"cd {tmp_path / 'gone'} && rmdir {tmp_path / 'gone'} && exec {sys.executable} -m mindone_ddpm doctor"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: the working directory was removed; change to another one\n"


def test_a_limited_address_space_is_told_before_mindspore_is_imported(tmp_path):
    command = f"ulimit -v 1500000; exec {sys.executable} -m mindone_ddpm sample --model nowhere --output_dir out"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the address space is limited to 1.4 GiB (ulimit -v)"), result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("Allocate memory failed\n\n- C++ Call Stack"), MemoryError(), RuntimeError("Out of Memory!")]
)
def test_too_little_memory_is_one_line(error, capsys):
    def fail() -> int:
        raise error

    assert status_of(fail) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not enough memory (") and "smaller batches" in line


def test_other_errors_of_mindspore_keep_their_traceback():
    def fail() -> int:
        raise RuntimeError("For 'Add', the shapes do not fit")

    with pytest.raises(RuntimeError, match="the shapes do not fit"):
        status_of(fail)


STATUSES = [
    (0, ["--version"], ""),
    (0, ["train", "--dataset_name", "digits", "--print_config"], ""),
    (2, ["report", "{folder}"], "{folder}: holds no run"),
    (1, ["train", "--train_data_dir", "{images}", "--image_size", 8, "--train_batch_size", 1], "a.png: not a readable"),
    (2, ["nothing"], "nothing: unknown command"),
    (2, ["train"], "--dataset_name or --train_data_dir: give one of them"),
    (2, ["train", "--train_data_dir", "{folder}/nowhere"], "--train_data_dir {folder}/nowhere: no such folder"),
    (2, ["train", "--train_data_dir", "{folder}"], "--train_data_dir {folder}: the folder is empty"),
    (2, ["train", "--dataset_name", "digits", "--device", "GPU"], "--device GPU: not found on this machine"),
    (
        2,
        ["train", "--dataset_name", "digits", "--image_column", "x"],
        "--image_column x: the data set has image, label",
    ),
    (2, ["train", "--dataset_name", "digits", "--resume_from_checkpoint", "x"], "--resume_from_checkpoint x: "),
    (2, ["sample", "--model", "{folder}"], "--model {folder}: is not a pipeline"),
]


@pytest.mark.parametrize(("status", "arguments", "message"), STATUSES)
def test_exit_statuses(status, arguments, message, tmp_path):
    """Those of docs/reliability.md. Signals: tests/training/test_checkpoint.py, tests/runtime/test_launch.py."""
    folder, images = tmp_path / "folder", tmp_path / "images"
    folder.mkdir()
    images.mkdir()
    (images / "a.png").write_bytes(b"no image")
    words = [str(word).format(folder=folder, images=images) for word in arguments]
    result = run_program(*words, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    if status:
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and message.format(folder=folder) in errors[0], result.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "images"]

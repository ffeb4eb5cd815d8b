"""Runs in each other's way, and folders that go away, with real processes."""

from __future__ import annotations

import re
import shutil
import signal
import time

import pytest
from conftest import own_lines, run_program
from test_checkpoint import loss_log, start, wait_for

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.locks import LOCK_FILE
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.output import checkpoint, run_folder
from mindone_ddpm.training.setup import check_is_apart, check_output_dir


def test_a_second_run_in_the_same_folder_is_refused(digits_flags, tmp_path):
    folder = tmp_path / "run"
    flags = [*digits_flags, "--max_train_steps", 100000, "--checkpointing_steps", 5, "--output_dir", folder]
    first = start("train", *flags)
    wait_for((folder / "checkpoint-5").exists)
    for how in (["--resume_from_checkpoint", "auto"], ["--overwrite_output_dir"]):
        second = run_program("train", *flags, *how)
        assert second.returncode == 2, second.stderr
        (line,) = own_lines(second.stderr)
        assert line.startswith(f"error: --output_dir {folder}: process {first.pid} on ")
        assert line.endswith("; stop it, or give another folder")
    first.send_signal(signal.SIGTERM)
    _, stderr = first.communicate(timeout=60)
    assert first.returncode == 143, stderr
    assert not (folder / LOCK_FILE).exists() and checkpoint.checkpoints_in(folder)


def test_a_folder_that_is_removed_while_the_run_writes_to_it_is_made_again(digits_flags, tmp_path):
    folder = tmp_path / "run"
    flags = [*digits_flags, "--max_train_steps", 30, "--checkpointing_steps", 1, "--logging_steps", 1]
    process = start("train", *flags, "--output_dir", folder)
    wait_for((folder / "checkpoint-3").exists)
    folder.rename(tmp_path / "away")  # at once, unlike rmtree
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stderr.count("was removed or replaced while the run writes to it; it is made again") == 1
    assert {run_folder.RUN_CONFIG, run_folder.PRODUCT_RECORD, "model_index.json", "checkpoint-30"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / LOCK_FILE).exists() and len(loss_log(folder)) > 1
    shutil.rmtree(tmp_path / "away")


def test_an_output_folder_among_the_images_is_refused(image_folder, tmp_path, monkeypatch):
    before = sorted(image_folder.rglob("*"))
    monkeypatch.chdir(image_folder)
    (tmp_path / "link").symlink_to(image_folder)
    for output_dir in (image_folder / "out", ".", "warm/out", tmp_path / "link" / "out"):
        config = TrainingConfig(train_data_dir=str(image_folder), output_dir=str(output_dir))
        with pytest.raises(ConfigError, match="where the run's own samples would become training images"):
            check_output_dir(config)
    check_output_dir(TrainingConfig(train_data_dir=str(image_folder), output_dir=str(tmp_path / "out")))
    assert sorted(image_folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("output_dir", "message"),
    [
        ("/", "is the root of the file system"),
        ("../" * 20, "is the root"),
        ("a" * 300, "name too long"),
        ("a\0b", "null"),
    ],
)
def test_folders_that_cannot_be_an_output_folder(output_dir, message):
    with pytest.raises(ConfigError, match=f"(?i)^--output_dir .*{message}") as error:
        check_output_dir(TrainingConfig(dataset_name="digits", output_dir=output_dir))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.distributed])])
def test_a_run_stops_before_its_time_is_over_and_goes_on(digits_flags, tmp_path, ranks):
    folder = tmp_path / "run"
    launch = ["launch", "-n", ranks] if ranks > 1 else []
    flags = [*launch, "train", *digits_flags, "--train_batch_size", 16, "--output_dir", folder]
    flags += ["--max_train_steps", 100000, "--max_hours", 10 / 3600, "--logging_steps", 10]
    flags += ["--checkpointing_steps", 100000]  # a fast machine would come to another checkpoint
    began = time.monotonic()
    result = run_program(*flags, fresh=True)
    assert result.returncode == 0, result.stderr
    assert 10 <= time.monotonic() - began < 90
    assert re.search(r"^stopped at step [\d,]+ of 100,000; .* --resume_from_checkpoint auto goes on from there$",
                     result.stderr, re.MULTILINE)  # fmt: skip
    ((step, _),) = checkpoint.checkpoints_in(folder)
    assert not (folder / "model_index.json").exists()
    again = [*flags, "--max_train_steps", step + 5, "--max_hours", 1, "--resume_from_checkpoint", "auto"]
    result = run_program(*again, fresh=True)
    assert result.returncode == 0 and (folder / "model_index.json").is_file(), result.stderr


def test_a_run_may_have_the_name_of_the_built_in_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "images"):
        (tmp_path / name).mkdir()
    check_is_apart(TrainingConfig(dataset_name="digits", output_dir="digits"))
    for source in ({"dataset_name": "images"}, {"train_data_dir": "images"}):
        with pytest.raises(ConfigError, match="samples would become training images"):
            check_is_apart(TrainingConfig(**source, output_dir="images/run"))

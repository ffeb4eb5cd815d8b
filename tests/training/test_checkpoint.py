"""Nothing is lost: real processes, real kills, real files."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, run_program
from safetensors.numpy import load_file

from mindone_ddpm.common import files
from mindone_ddpm.data.loader import BatchSource
from mindone_ddpm.data.plan import Plan
from mindone_ddpm.models.pipelines import UNET_WEIGHTS
from mindone_ddpm.output import checkpoint, run_folder
from mindone_ddpm.output.checkpoint import CheckpointError
from mindone_ddpm.output.run_state import read_state

# --- files


def make_checkpoint(folder: Path, value: float = 1.0, fail: bool = False) -> None:
    def save_weights(folder: Path) -> None:
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text("{}")
        if fail:
            raise OSError(28, "No space left on device")

    state = {"moment": ms.Parameter(ms.Tensor([value], ms.float32), name="moment")}
    progress = {"step": 1, "batch_number": 1, "skips": 0, "samples_seen": 1}
    record = {"progress": progress, "config": {}, "identity": {}, "world_size": 1}
    checkpoint.save_checkpoint(folder, record, state, save_weights)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-1", 5.0)
    with pytest.raises(CheckpointError, match="checkpoint-1: the checkpoint could not be written"):
        make_checkpoint(tmp_path / "checkpoint-1", 6.0, fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert load_file(tmp_path / "checkpoint-1" / checkpoint.STATE_TENSORS)["moment"] == [5.0]
    make_checkpoint(tmp_path / "checkpoint-1", 7.0)
    assert load_file(tmp_path / "checkpoint-1" / checkpoint.STATE_TENSORS)["moment"] == [7.0]


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "record"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, damage):
    for step in (5, 10):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    victim = tmp_path / "checkpoint-10" / checkpoint.STATE_TENSORS
    content = victim.read_bytes()
    if damage == "cut":
        victim.write_bytes(content[:-3])
    elif damage == "flip":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        victim.unlink()
    else:
        (tmp_path / "checkpoint-10" / checkpoint.STATE_RECORD).write_text("{")
    warnings: list[str] = []
    folder, _ = checkpoint.find_checkpoint("latest", tmp_path, warnings.append)
    assert folder.name == "checkpoint-5"
    assert len(warnings) == 1 and "checkpoint-10" in warnings[0] and "taking the one before" in warnings[0]


def test_what_a_kill_leaves_is_ignored_and_cleared(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / ".checkpoint-9.tmp").mkdir()
    (tmp_path / ".checkpoint-7.old").mkdir()
    (tmp_path / "checkpoint-not-a-number").mkdir()
    assert checkpoint.checkpoints_in(tmp_path) == [(5, tmp_path / "checkpoint-5")]
    run_folder.clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-not-a-number"]


def test_pruning_keeps_the_newest_by_number(tmp_path):
    for step in (9, 10, 100, 20):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    checkpoint.prune(tmp_path, None)
    assert len(checkpoint.checkpoints_in(tmp_path)) == 4
    checkpoint.prune(tmp_path, 2)
    assert [step for step, _ in checkpoint.checkpoints_in(tmp_path)] == [20, 100]


def test_finding_nothing(tmp_path):
    assert checkpoint.find_checkpoint("auto", tmp_path, print) is None
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.find_checkpoint("latest", tmp_path, print)
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoint.find_checkpoint("checkpoint-3", tmp_path, print)
    make_checkpoint(tmp_path / "checkpoint-3")
    assert checkpoint.find_checkpoint("checkpoint-3", tmp_path, print)[0].name == "checkpoint-3"
    (tmp_path / "checkpoint-3" / checkpoint.STATE_TENSORS).unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        checkpoint.find_checkpoint("auto", tmp_path, print)


def test_going_on_at_a_late_batch_reads_nothing_before_it():
    touched: list[int] = []

    def make_batch(indices, generators):
        touched.extend(indices)
        return {"images": indices}

    source = BatchSource(Plan(0, 1000, 8), make_batch, ["images"], first=100_000, count=10**6)
    started = time.perf_counter()
    source[0]
    assert len(touched) == 8
    assert time.perf_counter() - started < 0.1


# --- runs


def start(*arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mindone_ddpm", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def wait_for(condition, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def loss_log(folder: Path) -> list[list[str]]:
    with open(folder / "logs" / "metrics.csv", newline="") as file:
        return [row[:4] for row in csv.reader(file)]


def weight_files(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {str(path.relative_to(folder)): load_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def assert_same_end(folder: Path, reference: Path, step: int, not_logged: int = 0) -> None:
    """Weights, averages, optimiser, product and loss log, but for its first rows, are equal to the bit."""
    found, expected = (
        {
            name: arrays
            for name, arrays in weight_files(place).items()
            if "checkpoint-" not in name or name.startswith(f"checkpoint-{step}")
        }
        for place in (folder, reference)
    )
    assert set(found) == set(expected) and len(expected) >= 4  # weights, averages, optimiser; product
    for name, arrays in expected.items():
        assert set(found[name]) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[name][key], array, err_msg=f"{name}: {key}")
    header, *rows = loss_log(reference)
    assert loss_log(folder) == [header, *rows[not_logged:]]


STEPS = 60
ACCUMULATED = ["--gradient_accumulation_steps", 3, "--dataloader_num_workers", 2, "--cache_images_mib", 0]


@pytest.fixture(scope="module")
def run_flags(digits_flags):
    return [*digits_flags, "--max_train_steps", STEPS, "--checkpointing_steps", 15, "--logging_steps", 7]


@pytest.fixture(scope="module")
def undisturbed(run_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = run_program("train", *run_flags, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


def kill_and_resume(flags, folder: Path, when, command: str = "train") -> None:
    process = start(command, *flags, "--output_dir", folder, "--resume_from_checkpoint", "auto")
    when(process)
    process.kill()
    process.communicate()
    result = run_program(command, *flags, "--output_dir", folder, "--resume_from_checkpoint", "auto")
    assert result.returncode == 0, result.stderr


def test_what_a_checkpoint_holds(undisturbed):
    assert [step for step, _ in checkpoint.checkpoints_in(undisturbed)] == [45, 60]
    folder = undisturbed / "checkpoint-45"
    assert (folder / "unet" / "config.json").is_file() and (folder / "unet_ema" / "config.json").is_file()
    assert {path.suffix for path in files.files_in(folder)} == {".json", ".safetensors"}
    record = json.loads((folder / checkpoint.STATE_RECORD).read_text())
    assert record["progress"]["step"] == 45
    assert record["progress"]["samples_seen"] == 45 * 32
    assert record["seed"] == 0 and record["config"]["train_batch_size"] == 32
    assert record["versions"]["mindspore"] == ms.__version__
    state = load_file(folder / checkpoint.STATE_TENSORS)
    assert state["step"] == 45 and "moments1.conv_in.weight" in state and "moments2.conv_in.weight" in state


def test_the_final_pipeline_holds_the_average(undisturbed):
    final = load_file(undisturbed / "unet" / UNET_WEIGHTS)
    average = load_file(undisturbed / "checkpoint-60" / "unet_ema" / UNET_WEIGHTS)
    raw = load_file(undisturbed / "checkpoint-60" / "unet" / UNET_WEIGHTS)
    for name in final:
        np.testing.assert_array_equal(final[name], average[name])
    assert any((final[name] != raw[name]).any() for name in final)


def test_killed_and_resumed_equals_undisturbed(run_flags, undisturbed, tmp_path):
    folder = tmp_path / "run"
    kill_and_resume(run_flags, folder, lambda _: wait_for((folder / "checkpoint-30").exists))
    assert_same_end(folder, undisturbed, STEPS)


def test_every_job_resumes_to_the_bit(job, tmp_path):
    command, flags = job
    flags = [*flags, "--max_train_steps", 12, "--checkpointing_steps", 3, "--logging_steps", 1]
    reference, folder = tmp_path / "reference", tmp_path / "run"
    result = run_program(command, *flags, "--output_dir", reference)
    assert result.returncode == 0, result.stderr
    kill_and_resume(flags, folder, lambda _: wait_for((folder / "checkpoint-6").exists), command)
    assert_same_end(folder, reference, 12)


def test_with_accumulation_workers_and_a_ragged_window(run_flags, tmp_path):
    # 57 batches an epoch in windows of 3: step 15 ends inside an epoch; 1,797 images leave a ragged batch.
    flags = [*run_flags, *ACCUMULATED, "--train_batch_size", 40, "--max_train_steps", 30]
    reference, folder = tmp_path / "reference", tmp_path / "run"
    single_threaded = [*flags, "--dataloader_num_workers", 0]
    assert run_program("train", *single_threaded, "--output_dir", reference).returncode == 0
    kill_and_resume(flags, folder, lambda _: wait_for((folder / "checkpoint-15").exists))
    assert_same_end(folder, reference, 30)


def check_random_kills(run_flags, folder: Path, number: int, steps: int) -> None:
    """Kill a run ``number`` times at random moments of its lives, the start and the writing of checkpoints included."""
    # A checkpoint every other step, so that many kills fall into the writing of one.
    flags = [*run_flags, "--max_train_steps", steps, "--checkpointing_steps", 2]
    reference = folder.with_name("reference")
    process = start("train", *flags, "--output_dir", reference)
    started = time.monotonic()
    wait_for((reference / "checkpoint-40").exists)
    longest_life_s = time.monotonic() - started
    process.communicate()
    assert process.returncode == 0

    generator, hits = random.Random(5), 0
    for _ in range(number):
        process = start("train", *flags, "--output_dir", folder, "--resume_from_checkpoint", "auto")
        try:
            process.wait(timeout=generator.uniform(0.5, longest_life_s))
        except subprocess.TimeoutExpired:
            hits += 1
        process.kill()
        process.communicate()
    result = run_program("train", *flags, "--output_dir", folder, "--resume_from_checkpoint", "auto", timeout_s=600)
    assert result.returncode == 0, result.stderr
    print(f"kills that hit the run alive: {hits} of {number}")
    assert hits == number
    assert_same_end(folder, reference, steps)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_three_random_kills(run_flags, tmp_path):
    check_random_kills(run_flags, tmp_path / "run", 3, steps=120)


@pytest.mark.slow
def test_twenty_random_kills(run_flags, tmp_path):
    check_random_kills(run_flags, tmp_path / "run", 20, steps=700)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_stops_after_the_step_with_a_checkpoint(run_flags, undisturbed, tmp_path, number, status):
    folder = tmp_path / "run"
    process = start("train", *run_flags, "--output_dir", folder)
    wait_for((folder / "checkpoint-15").exists)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert "--resume_from_checkpoint auto goes on from there" in stderr and "Traceback" not in stderr
    newest = checkpoint.checkpoints_in(folder)[-1][0]
    assert f"stopped at step {newest} of 60" in stderr
    state = read_state(folder)
    assert (state["state"], state["total_steps"]) == ("stopped", 60) and f"step {newest} of 60" in state["message"]
    result = run_program("train", *run_flags, "--output_dir", folder, "--resume_from_checkpoint", "auto")
    assert result.returncode == 0, result.stderr
    assert f"step {newest}," in result.stdout + result.stderr
    assert_same_end(folder, undisturbed, STEPS)


def test_a_second_signal_leaves_at_once(digits_flags, tmp_path):
    folder = tmp_path / "run"
    process = start(
        "train", *digits_flags, "--max_train_steps", 10**6, "--checkpointing_steps", 0, "--output_dir", folder
    )
    wait_for((folder / "logs" / "metrics.csv").exists)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    # A negative status, which a shell shows as 143: the step was over before the second signal came.
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM)


def test_a_finished_run_resumes_to_the_same_end(run_flags, undisturbed):
    before = load_file(undisturbed / "unet" / UNET_WEIGHTS)
    result = run_program("train", *run_flags, "--output_dir", undisturbed, "--resume_from_checkpoint", "latest")
    assert result.returncode == 0, result.stderr
    after = load_file(undisturbed / "unet" / UNET_WEIGHTS)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_another_configuration_is_refused_with_its_differences_or_accepted_when_told(run_flags, undisturbed, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    changed = [*run_flags, "--train_batch_size", 64, "--seed", 3, "--max_train_steps", 62, "--output_dir", folder]
    refused = run_program("train", *changed, "--resume_from_checkpoint", "latest")
    assert refused.returncode == 2
    assert "global_batch_size is 64, was 32" in refused.stderr and "seed is 3, was 0" in refused.stderr
    assert "--accept_changes" in refused.stderr
    accepted = run_program("train", *changed, "--resume_from_checkpoint", "latest", "--accept_changes")
    assert accepted.returncode == 0, accepted.stderr
    assert "changed: global_batch_size is 64, was 32" in accepted.stdout
    record = json.loads((folder / "checkpoint-62" / checkpoint.STATE_RECORD).read_text())
    assert (
        record["progress"]["samples_seen"] >= 60 * 32 + 64
    )  # goes on where the images are, not where the batches were


@pytest.mark.slow
def test_an_average_switched_on_at_resume_starts_from_the_weights(digits_flags, tmp_path):
    folder = tmp_path / "run"
    flags = [flag for flag in digits_flags if flag != "--use_ema"]
    flags += ["--max_train_steps", 6, "--checkpointing_steps", 3, "--logging_steps", 3, "--output_dir", folder]
    assert run_program("train", *flags, "--loss_scale", 4).returncode == 0
    (folder / "checkpoint-6" / checkpoint.STATE_RECORD).unlink()
    resumed = [*flags, "--resume_from_checkpoint", "latest", "--use_ema", "--ema_decay", 1, "--loss_scale", 2]
    assert run_program("train", *resumed).returncode == 2
    result = run_program("train", *resumed, "--accept_changes")
    assert result.returncode == 0, result.stderr
    assert "checkpoint-6" in result.stderr and "taking the one before" in result.stderr
    assert "changed: loss_scale is 2.0, was 4.0" in result.stdout
    # A decay of 1 keeps the average where it began: at the weights of step 3.
    average = load_file(folder / "checkpoint-6" / "unet_ema" / UNET_WEIGHTS)
    weights = load_file(folder / "checkpoint-3" / "unet" / UNET_WEIGHTS)
    for name in weights:
        np.testing.assert_array_equal(average[name], weights[name])
    assert load_file(folder / "checkpoint-6" / checkpoint.STATE_TENSORS)["loss_scale"] == 2.0


def test_resuming_an_earlier_checkpoint_sets_the_later_ones_aside(run_flags, undisturbed, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    result = run_program("train", *run_flags, "--output_dir", folder, "--resume_from_checkpoint", "checkpoint-45")
    assert result.returncode == 0, result.stderr
    assert (folder / "abandoned-checkpoint-60").is_dir()
    assert_same_end(folder, undisturbed, STEPS)


@pytest.mark.parametrize(("choice", "status"), [("continue", 0), ("stop", 1)])
def test_a_disk_that_takes_no_more(run_flags, tmp_path, choice, status):
    """Files may have at most 100 KB: the weights do not fit, as on a full disk."""
    folder = tmp_path / "run"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    flags = [*run_flags, "--max_train_steps", 20, "--on_checkpoint_error", choice, "--save_model_epochs", 0]
    process = start("train", *flags, "--output_dir", folder, preexec_fn=limit)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr  # with continue, the pipeline at the end does not fit either
    assert "checkpoint-15: the checkpoint could not be written (" in stderr
    assert ("going on, with the older checkpoints" in stderr) == (choice == "continue")
    assert ("the pipeline could not be saved" in stderr) == (choice == "continue")
    assert "Traceback" not in stderr
    assert checkpoint.checkpoints_in(folder) == []
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(digits_flags, tmp_path):
    folder = tmp_path / "run"
    flags = [*digits_flags, "--max_train_steps", 200, "--checkpointing_steps", 5, "--logging_steps", 1]
    flags += ["--learning_rate", 1e30, "--max_grad_norm", 0, "--lr_warmup_steps", 20, "--adam_weight_decay", 1]
    result = run_program("train", *flags, "--output_dir", folder)
    assert result.returncode == 1
    assert "is not finite" in result.stderr and "--learning_rate" in result.stderr and "Traceback" not in result.stderr
    for _, path in checkpoint.checkpoints_in(folder):
        checkpoint.read_record(path)


def test_too_many_skips_in_a_row_stop_the_run_with_advice(digits_flags, tmp_path):
    flags = [*digits_flags, "--max_train_steps", 100, "--mixed_precision", "fp16", "--loss_scale", 1e12]
    flags += ["--max_consecutive_skips", 5, "--logging_steps", 2, "--output_dir", tmp_path / "run"]
    result = run_program("train", *flags)
    assert result.returncode == 1
    assert "more than 5 updates in a row were skipped" in result.stderr
    assert "--loss_scaling dynamic" in result.stderr
    dynamic = run_program(
        "train",
        *flags,
        "--loss_scaling",
        "dynamic",
        "--max_consecutive_skips",
        50,
        "--max_train_steps",
        4,
        "--overwrite_output_dir",
    )
    assert dynamic.returncode == 0, dynamic.stderr
    assert "skipped" in dynamic.stderr

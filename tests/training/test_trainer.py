"""End to end through the command line: train on real input, look at what is left behind, sample from it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, own_lines, run_program
from PIL import Image
from safetensors.numpy import load_file

from mindone_ddpm.data.plan import Plan
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.training.schedule import Schedule

DIGITS = ["--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 32]
QUICK = ["--max_train_steps", 4, "--ddpm_num_inference_steps", 3, "--eval_batch_size", 4, "--logging_steps", 1]
QUICK += ["--lr_warmup_steps", 0, "--report_to", "csv"]
NOISE = ("Warning", "WARNING", "parakeet", "PyTorch", "Traceback", "deprecated", "ERROR")


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def losses_of(folder: Path) -> list[float]:
    with open(folder / "logs" / "metrics.csv", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    return folder, run_program("train", *DIGITS, *QUICK, "--output_dir", folder, fresh=True)


def test_training_leaves_a_pipeline_samples_and_a_log(digits_run):
    folder, result = digits_run
    assert result.returncode == 0, result.stderr
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "samples/0001.png"):
        assert (folder / name).is_file(), name
    assert len(losses_of(folder)) == 4
    assert losses_of(folder)[0] == pytest.approx(1.1, abs=0.3)
    config = yaml.safe_load((folder / "training_config.yaml").read_text())
    assert (config["mixed_precision"], config["loss_scale"], config["channels"]) == ("no", 1.0, 1)
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


def test_the_program_is_quiet(digits_run):
    _, result = digits_run
    output = result.stdout + result.stderr
    assert not [word for word in NOISE if word in output], output
    assert "701,345 parameters" in output
    assert "img/s" in result.stderr


def test_mindones_pipeline_loads_what_was_saved(digits_run, graph_mode):
    from mindone.diffusers import DDPMPipeline

    folder, _ = digits_run
    pipeline = DDPMPipeline.from_pretrained(str(folder))
    assert pipeline.unet.config.in_channels == 1
    assert pipeline.scheduler.config.num_train_timesteps == 1000


def test_the_same_command_gives_the_same_weights_and_losses(digits_run, tmp_path):
    folder, _ = digits_run
    again = tmp_path / "again"
    # Neither the grids on the way nor the workers may touch the training.
    flags = ["--save_image_epochs", 0, "--dataloader_num_workers", 2, "--cache_images_mib", 0]
    assert run_program("train", *DIGITS, *QUICK, *flags, "--output_dir", again, fresh=True).returncode == 0
    assert losses_of(again) == losses_of(folder)
    for name, weight in weights_of(folder).items():
        np.testing.assert_array_equal(weight, weights_of(again)[name])


def test_a_folder_that_holds_a_run_is_refused_and_replaced_only_when_told(digits_run):
    folder, _ = digits_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = run_program("train", *DIGITS, *QUICK, "--output_dir", folder)
    assert result.returncode == 2
    assert "already holds a run" in result.stderr and "--overwrite_output_dir" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_sampling_from_the_saved_pipeline(digits_run, tmp_path):
    folder, _ = digits_run
    settings = ["--num_images", 5, "--batch_size", 2, "--num_inference_steps", 3, "--scheduler", "ddim"]
    first = run_program("sample", "--model", folder, *settings, "--output_dir", tmp_path / "a")
    assert first.returncode == 0, first.stderr
    assert not [word for word in NOISE if word in first.stdout + first.stderr], first.stderr
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [*(f"0000{i}.png" for i in range(5)), "grid.png"]
    picture = Image.open(tmp_path / "a" / "00004.png")
    assert (picture.size, picture.mode) == ((8, 8), "L")
    refused = run_program("sample", "--model", folder, *settings, "--output_dir", tmp_path / "a")
    assert refused.returncode == 2 and "already holds images" in refused.stderr


@pytest.mark.parametrize("channels", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_an_image_folder_in_colour_through_the_example(image_folder, tmp_path, channels):
    output = tmp_path / "run"
    arguments = [
        *("--train_data_dir", image_folder, "--channels", channels, "--resolution", 8, "--train_batch_size", 5),
        *("--num_epochs", 2, "--gradient_accumulation_steps", 2, "--cache_dir", tmp_path / "cache"),
        *("--ddpm_num_inference_steps", 2, "--save_images_epochs", 1, "--output_dir", output, "--mode", "pynative"),
    ]
    script = ROOT / "examples" / "unconditional" / "train.py"
    result = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        capture_output=True, text=True, cwd=tmp_path, env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (output / "samples" / "0002.png").is_file()
    assert Image.open(output / "samples" / "0001.png").mode == {3: "RGB", 4: "RGBA"}[channels]
    assert "4 (2 an epoch)" in result.stdout + result.stderr


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    result = run_program("train", *DIGITS, "--output_dir", tmp_path / "run", "--dry_run", cwd=tmp_path)
    assert result.returncode == 0
    assert "# steps: 2,850 (57 an epoch)" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--train_batch_size", 5000], 2, "--train_batch_size 5000: the data set has only 1797 images"),
        (["--device", "Ascend"], 2, "--device Ascend: not found on this machine"),
        (["--image_column", "label"], 2, "--image_column label: is not a column of images"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, flags, status, message):
    result = run_program("train", *DIGITS, *flags, "--output_dir", tmp_path / "run")
    assert result.returncode == status
    assert message in result.stderr
    assert len(own_lines(result.stderr)) == 1, result.stderr
    assert not (tmp_path / "run").exists()


def test_a_corrupt_image_stops_before_anything_is_written(image_folder, tmp_path):
    (image_folder / "warm" / "1.png").write_bytes(b"not an image")
    result = run_program(
        "train", "--train_data_dir", image_folder, "--resolution", 8, "--train_batch_size", 4,
        "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 1
    assert "1.png: not a readable image" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("part", "message"), [("none", "no such folder"), ("empty", "it has no model_index.json")])
def test_sampling_from_what_is_no_pipeline(tmp_path, part, message):
    (tmp_path / "empty").mkdir()
    result = run_program("sample", "--model", tmp_path / part, "--output_dir", tmp_path / "out")
    assert result.returncode == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_preview_shows_before_and_after(tmp_path):
    result = run_program("preview", *DIGITS, "--num_images", 4, "--output", tmp_path / "look.png")
    assert result.returncode == 0, result.stderr
    page = np.asarray(Image.open(tmp_path / "look.png").convert("L")).astype(float)
    above, below = page[2:66, 2:66], page[134 + 16 + 2 : 134 + 16 + 66, 2:66]
    assert np.corrcoef(above.ravel(), below.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--num_images", 0], "--num_images 0: must be at least 1"), (["--output", "look"], "--output look: must end in")],
)
def test_preview_wrongly_used(tmp_path, flags, message):
    result = run_program("preview", *DIGITS, *flags, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_preview_names_a_corrupt_image(image_folder, tmp_path):
    for path in image_folder.rglob("*.png"):
        path.write_bytes(b"not an image")
    flags = ["--train_data_dir", image_folder, "--resolution", 8, "--cache_dir", tmp_path / "cache"]
    result = run_program("preview", *flags, "--output", tmp_path / "look.png")
    assert result.returncode == 1 and "png: not a readable image" in result.stderr and "<<<" not in result.stderr


def test_other_peoples_files_survive(digits_flags, tmp_path):
    folder = tmp_path / "project"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "events.out.tfevents.mine").write_text("x")
    (folder / "notes.txt").write_text("x")
    flags = [*digits_flags, "--checkpointing_steps", 0, "--max_train_steps", 1]
    assert run_program("train", *flags, "--output_dir", folder).returncode == 0
    assert (folder / "logs" / "events.out.tfevents.mine").exists()
    # A finished run without checkpoints is not trained anew by `auto`.
    index = (folder / "model_index.json").stat().st_mtime_ns
    refused = run_program("train", *flags, "--output_dir", folder, "--resume_from_checkpoint", "auto")
    assert refused.returncode == 2 and "holds a pipeline but no checkpoint" in refused.stderr
    assert (folder / "model_index.json").stat().st_mtime_ns == index
    assert run_program("train", *flags, "--output_dir", folder, "--overwrite_output_dir").returncode == 0
    assert (folder / "notes.txt").exists() and (folder / "logs" / "metrics.csv").exists()


def test_windows_never_cross_an_epochs_end():
    schedule = Schedule(Plan(0, 10, 3), accumulation_steps=3, num_epochs=2, max_train_steps=None)
    assert (schedule.steps_per_epoch, schedule.total_steps) == (2, 4)
    assert [schedule.window_size(number) for number in (0, 3, 4, 7)] == [3, 1, 3, 1]
    assert schedule.epoch(3) == (1, False) and schedule.epoch(4) == (1, True) and schedule.epoch(5) == (2, False)
    assert not schedule.is_over(3, 7) and schedule.is_over(4, 8)


def test_epochs_without_the_batch_that_is_not_full():
    schedule = Schedule(Plan(0, 10, 3, drop_last=True), accumulation_steps=2, num_epochs=2, max_train_steps=None)
    assert (schedule.steps_per_epoch, schedule.total_steps) == (2, 4)


def test_every_public_name_can_be_imported():
    import mindone_ddpm

    for name in mindone_ddpm.__all__:
        assert getattr(mindone_ddpm, name) is not None
    assert TrainingConfig is mindone_ddpm.TrainingConfig


def test_scale_lr_multiplies_by_the_global_batch_and_jit_level_reaches_mindspore(tmp_path):
    import mindspore as ms

    from mindone_ddpm.training.setup import prepare

    config = TrainingConfig(
        dataset_name="digits",
        channels=1,
        image_size=8,
        train_batch_size=4,
        gradient_accumulation_steps=3,
        learning_rate=1e-4,
        lr_scheduler="constant",
        scale_lr=True,
        jit_level="O0",
        output_dir=str(tmp_path / "run"),
    )
    assert prepare(config).rates[0] == pytest.approx(1.2e-3)
    assert ms.get_context("jit_config") == {"jit_level": "O0"}


def test_deterministic_kernels_and_a_limit_of_memory_can_be_asked_for(digits_flags, tmp_path):
    flags = ["--max_train_steps", 2, "--deterministic", "--max_device_memory", 4, "--output_dir", tmp_path / "run"]
    result = run_program("train", *digits_flags, *flags)
    assert result.returncode == 0, result.stderr

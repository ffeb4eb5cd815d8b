"""backends/cpu can be deleted: training and sampling run on the substitutes alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

MODEL = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
FLAGS = [
    *("train", "--dataset_name", "digits", "--channels", "1", "--image_size", "8", "--use_ema"),
    *("--max_train_samples", "64", "--train_batch_size", "8", "--max_train_steps", "2", "--lr_warmup_steps", "0"),
    *("--save_image_epochs", "0", "--checkpointing_steps", "0", "--report_to", "csv", "--device", "CPU"),
]


def run(package: Path, *arguments: object) -> str:
    command = [sys.executable, "-m", "mindone_ddpm", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=package, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stderr


def losses(folder: Path) -> list[float]:
    with open(folder / "logs" / "metrics.csv", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_copy_without_the_folder_trains_and_samples(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "mindone_ddpm", copy / "mindone_ddpm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(copy / "mindone_ddpm" / "backends" / "cpu")
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    flags = [*FLAGS, "--model_config_name_or_path", tmp_path / "config.json"]
    run(copy, *flags, "--output_dir", tmp_path / "without")
    run(ROOT, *flags, "--output_dir", tmp_path / "with")
    assert losses(tmp_path / "without") == pytest.approx(losses(tmp_path / "with"), rel=1e-4)
    flags = ["--num_images", 2, "--num_inference_steps", 2, "--device", "CPU"]
    run(copy, "sample", "--model", tmp_path / "without", *flags, "--output_dir", tmp_path / "samples")
    assert (tmp_path / "samples" / "grid.png").is_file()

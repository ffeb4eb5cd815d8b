"""A copy of the package without ``backends/cpu`` trains and samples on the substitutes alone, to the same loss."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def run(root: Path, *words: object) -> str:
    variables = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "mindone_ddpm", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=root)
    assert result.returncode == 0, result.stderr
    return result.stderr


def losses(root: Path, flags: list[object], folder: Path) -> list[float]:
    said = run(root, "train", *flags, "--max_train_steps", 2, "--logging_steps", 1, "--output_dir", folder)
    assert "note:" not in said
    run(root, "sample", "--model", folder, "--num_images", 2, "--num_inference_steps", 2, "--output_dir",
        folder / "images")  # fmt: skip
    assert len(list((folder / "images").glob("*.png"))) >= 2
    with open(folder / "logs" / "metrics.csv", newline="") as file:
        return [float(row[1]) for row in list(csv.reader(file))[1:]]


@pytest.fixture(scope="module")
def without_cpu_folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "mindone_ddpm", root / "mindone_ddpm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(root / "mindone_ddpm" / "backends" / "cpu")
    return root


def test_training_gives_the_same_losses(without_cpu_folder, digits_flags, tmp_path):
    found = losses(without_cpu_folder, digits_flags, tmp_path / "without")
    assert len(found) == 2
    assert found == pytest.approx(losses(ROOT, digits_flags, tmp_path / "with"), rel=1e-4)


def test_the_doctor_has_nothing_against_it(without_cpu_folder):
    program = "from mindone_ddpm.runtime.doctor import check_fast_operators as check; print(check().text)"
    variables = {**os.environ, "PYTHONPATH": str(without_cpu_folder)}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables,
                            cwd=without_cpu_folder)  # fmt: skip
    assert "has no backends/cpu" in result.stdout, result.stderr

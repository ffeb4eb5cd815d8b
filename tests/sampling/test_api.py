"""Sampling and evaluation from Python give what the commands give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_program
from PIL import Image

import mindone_ddpm as md
from mindone_ddpm.runtime.start import start, start_once

PIPELINE = ROOT / "tests" / "data" / "runs_of_0_1" / "pipeline"


def images_in(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("0*.png"))])


def test_images_are_those_of_the_command(tmp_path):
    pipe = md.load(PIPELINE, device="CPU")
    images = md.sample(pipe, num_images=3, scheduler="ddim", num_inference_steps=4, seed=5, class_label=3)
    assert images.dtype == np.uint8 and images.shape == (3, 8, 8, 1)
    result = run_program(
        *("sample", "--model", PIPELINE, "--num_images", 3, "--scheduler", "ddim", "--num_inference_steps", 4),
        *("--seed", 5, "--class_label", 3, "--device", "CPU", "--output_dir", tmp_path),
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(images_in(tmp_path), images[..., 0])
    grid = md.make_grid(images)
    assert grid.size == Image.open(tmp_path / "grid.png").size
    np.testing.assert_array_equal(np.asarray(grid), np.asarray(Image.open(tmp_path / "grid.png")))


def test_images_for_prompts(stable_diffusion):
    pipe = md.load(stable_diffusion, device="CPU")
    scheduler = pipe.scheduler
    images = md.sample(pipe, 2, prompts="a digit", scheduler="ddim", num_inference_steps=2, height=16, width=16)
    assert images.shape == (2, 16, 16, 3) and pipe.scheduler is scheduler
    with pytest.raises(md.ConfigError, match="--prompt: this model makes images from text"):
        md.sample(pipe, 1)
    with pytest.raises(md.ConfigError, match="--class_label: is for unconditional models"):
        md.sample(pipe, 1, prompts="a", class_label=1)


def test_metrics_are_those_of_the_command(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()  # as beside the quickstart's run
    monkeypatch.chdir(tmp_path)
    options = {"num_samples": 70, "num_inference_steps": 2, "max_real_images": 100}
    found = md.evaluate(md.load(PIPELINE, device="CPU"), real="digits", metrics=["kid"], device="CPU", **options)
    result = run_program(
        *("evaluate", "--model", PIPELINE, "--dataset_name", "digits", "--features", "digits", "--metrics", "kid"),
        *("--num_samples", 70, "--num_inference_steps", 2, "--max_train_samples", 100, "--device", "CPU"),
        *("--output_dir", tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert found == pytest.approx(json.loads((tmp_path / "metrics.json").read_text())["metrics"], rel=1e-6)
    assert set(found) == {"digits_kernel_distance", "digits_kernel_distance_std"}


def test_mindspore_is_started_once_and_stays_as_it_is():
    first = start("CPU", "pynative", seed=0)
    assert start_once() is first and start_once("CPU", "pynative") is first
    md.load(PIPELINE)
    assert start_once() is first
    md.load(PIPELINE, mode="graph")
    assert (start_once().device, start_once().mode) == ("CPU", "graph")


@pytest.mark.parametrize("scheduler", [None, "ddim"])
def test_a_batch_size_changes_no_image_and_the_pipeline_stays_as_it_is(scheduler):
    pipe = md.load(PIPELINE)
    settings = {"scheduler": scheduler, "num_inference_steps": 3, "seed": 1, "class_label": "3,5"}
    together = md.sample(pipe, 5, **settings).astype(int)
    saved, config = pipe.scheduler, dict(pipe.scheduler.config)
    parts = md.sample(pipe, 5, batch_size=2, **settings)
    assert np.abs(parts - together).max() <= 1 and len(np.unique(together[0] - together[1])) > 1
    assert pipe.scheduler is saved and dict(pipe.scheduler.config) == config


def test_wrong_use_names_the_argument(tmp_path):
    with pytest.raises(md.ConfigError, match="no such folder"):
        md.load(tmp_path / "nowhere", device="CPU")
    pipe = md.load(PIPELINE, device="CPU")
    with pytest.raises(md.ConfigError, match="--prompt: is for text-to-image models"):
        md.sample(pipe, 1, prompts="a")
    with pytest.raises(md.ConfigError, match="--scheduler nothing: must be one of"):
        md.sample(pipe, 1, scheduler="nothing")
    with pytest.raises(md.ConfigError, match="--inception_weights"):
        md.evaluate(pipe, real=str(tmp_path), metrics=["fid"])


def test_every_public_name_is_there():
    for name in md.__all__:
        assert getattr(md, name) is not None
    assert all(issubclass(getattr(md, name), md.UserError) for name in md.__all__ if name.endswith("Error"))

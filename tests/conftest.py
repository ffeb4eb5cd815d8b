from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mindone_ddpm  # noqa: F401  (sets the environment before MindSpore is imported)

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all"):
        return
    kept = [item for item in items if "slow" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
    items[:] = kept


def set_mode(mode: str) -> None:
    from mindone_ddpm import runtime

    runtime.start("CPU", mode, seed=0)


@pytest.fixture
def graph_mode():
    set_mode("graph")


@pytest.fixture(params=["graph", "pynative"])
def either_mode(request):
    set_mode(request.param)
    yield request.param
    set_mode("graph")


def run_program(*arguments: object, timeout_s: float = 300, cwd: Path | None = None, **env: str):
    """The program as a user starts it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mindone_ddpm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


@pytest.fixture
def image_folder(tmp_path):
    """Twelve photographs-to-be: colour gradients of odd sizes, nested."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for number in range(12):
        height, width = 20 + number, 31 - number
        ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
        pixels = (ramp + generator.normal(0, 10, ramp.shape)).clip(0, 255).astype(np.uint8)
        place = folder / ("warm" if number % 2 else "cold")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """Configuration of a UNet that compiles in seconds."""
    path = tmp_path_factory.mktemp("model") / "config.json"
    settings = {
        "_class_name": "UNet2DModel",
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "add_attention": False,
    }
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="session")
def digits_flags(small_model) -> list[object]:
    """A run on digits, without grids, that takes a step in some 20 ms."""
    return [
        *("--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 32),
        *("--model_config_name_or_path", small_model, "--save_image_epochs", 0, "--report_to", "csv"),
        *("--learning_rate", 1e-3, "--lr_warmup_steps", 5, "--use_ema"),
    ]

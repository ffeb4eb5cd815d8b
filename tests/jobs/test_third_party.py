"""A job of another package, through the command line: trained, killed, resumed, sampled, pushed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROGRAMS, ROOT, run_program
from hub_server import TOKEN, HubServer
from safetensors.numpy import load_file

PACKAGE = PROGRAMS / "two_networks"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The package, installed into a folder of its own by pip; the environment that finds it."""
    folder, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "two_networks"
    shutil.copytree(PACKAGE, source)  # pip builds in the source's folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*command, "--target", str(folder), str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}


def flags(small_model: Path, folder: Path) -> list[object]:
    return [
        *("train_two_networks", "--train_data_dir", folder / "stripes", "--channels", 1, "--image_size", 16),
        *("--model_config_name_or_path", small_model, "--train_batch_size", 4, "--use_ema", "--lr_warmup_steps", 0),
        *("--learning_rate", 1e-3, "--max_train_steps", 12, "--checkpointing_steps", 2, "--report_to", "none"),
        *("--logging_steps", 1, "--save_image_epochs", 1, "--device", "CPU"),
    ]


def assert_same_weights(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert names and names == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_job_of_another_package(installed, small_model, tmp_path):
    listed = run_program("--help", **installed)
    assert "train a UNet and a corrector on stripes" in listed.stdout
    assert "--num_made_images" in run_program("train_two_networks", "--help", **installed).stdout

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trained = run_program(*flags(small_model, tmp_path), "--output_dir", whole, **installed)
    assert trained.returncode == 0, trained.stderr
    assert len(list((tmp_path / "stripes").glob("*.png"))) == 24
    assert load_file(whole / "corrector" / "corrector.safetensors")["gain"].any()

    kill_after_first_checkpoint([*flags(small_model, tmp_path), "--output_dir", killed], killed, installed)
    resumed = run_program(
        *flags(small_model, tmp_path), "--output_dir", killed, "--resume_from_checkpoint", "auto", **installed
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed" in resumed.stdout
    assert_same_weights(whole / "checkpoint-12", killed / "checkpoint-12")
    assert_same_weights(whole / "corrector", killed / "corrector")

    changed = run_program(
        *flags(small_model, tmp_path), "--output_dir", killed, "--resume_from_checkpoint", "latest",
        "--num_made_images", 30, "--max_train_steps", 14, **installed,
    )  # fmt: skip
    assert changed.returncode == 2 and "num_made_images is 30, was 24" in changed.stderr

    sampled = run_program(
        *("sample", "--model", killed, "--num_images", 2, "--num_inference_steps", 2, "--device", "CPU"),
        *("--output_dir", tmp_path / "samples"),
        **installed,
    )
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "samples" / "grid.png").is_file()
    assert "stripes" in (killed / "README.md").read_text()
    push(killed, tmp_path, installed)


def kill_after_first_checkpoint(arguments: list[object], folder: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mindone_ddpm", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(folder.glob("checkpoint-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def push(folder: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    server = HubServer()
    hub = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hub")}
    try:
        pushed = run_program(
            "push", "--model", folder, "--hub_model_id", "me/stripes", no_proxy="127.0.0.1", **hub, **environment
        )
        assert pushed.returncode == 0, pushed.stderr
        sent = server.repositories["me/stripes"]["files"]
        assert {
            "unet/diffusion_pytorch_model.safetensors",
            "corrector/corrector.safetensors",
            "README.md",
        } <= sent.keys()
    finally:
        server.close()

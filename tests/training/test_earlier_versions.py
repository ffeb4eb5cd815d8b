"""Checkpoints and pipelines that version 0.1 wrote: resumed and loaded.

tests/data/runs_of_0_1 has two runs of eight steps, stopped at step 4, and the weights with which version 0.1 ended.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from conftest import ROOT, run_program
from safetensors.numpy import load_file

RUNS = ROOT / "tests" / "data" / "runs_of_0_1"
IMAGES = [
    *("train", "--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 8),
    *("--max_train_samples", 40, "--model_config_name_or_path", RUNS / "images" / "model.json", "--use_ema"),
    *("--learning_rate", 1e-3, "--lr_warmup_steps", 2, "--class_conditional", "--gradient_accumulation_steps", 2),
    *("--max_train_steps", 8, "--checkpointing_steps", 4, "--save_image_epochs", 0, "--logging_steps", 1),
    *("--device", "CPU", "--checkpoints_total_limit", 5),
]


def resume(flags: list[object], kind: str, folder: Path):
    shutil.copytree(RUNS / kind, folder)
    return run_program(*flags, "--output_dir", folder, "--resume_from_checkpoint", "latest")


def assert_same_end(folder: Path, kind: str, file_name: str) -> None:
    """The weights with which version 0.1 ended; on another machine they may differ by rounding."""
    for name in ("unet", "unet_ema"):
        found = load_file(folder / "checkpoint-8" / name / file_name)
        expected = load_file(RUNS / kind / "expected" / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-5, err_msg=key)


def test_a_checkpoint_of_images_is_resumed(tmp_path):
    result = resume(IMAGES, "images", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "step 4, 56 samples seen" in result.stdout and "changed" not in result.stdout
    assert_same_end(tmp_path / "run", "images", "diffusion_pytorch_model.safetensors")


def test_a_checkpoint_of_adapters_is_resumed(stable_diffusion, captioned_digits, tmp_path):
    flags = [
        *("train_text_to_image", "--pretrained_model_name_or_path", stable_diffusion, "--resolution", 16),
        *("--dataset_name", captioned_digits, "--max_train_samples", 40, "--center_crop", "--train_batch_size", 8),
        *("--learning_rate", 1e-3, "--lr_warmup_steps", 0, "--use_ema", "--caption_dropout", 0.1, "--rank", 2),
        *("--max_train_steps", 8, "--checkpointing_steps", 4, "--logging_steps", 1, "--cache_latents"),
        *("--cache_dir", tmp_path / "cache", "--device", "CPU", "--checkpoints_total_limit", 5),
    ]
    result = resume(flags, "lora", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "run", "lora", "adapters.safetensors")


def test_settings_of_the_optimizer_do_not_change_silently(tmp_path):
    changes = [
        ("adam_beta2", 0.99, 0.999),
        ("adam_weight_decay", 0.1, 1e-06),
        ("max_grad_norm", 0.5, 1.0),
        ("ema_power", 0.5, 0.75),
    ]
    flags = [text for flag, value, _ in changes for text in (f"--{flag}", value)]
    result = resume([*IMAGES, *flags], "images", tmp_path / "run")
    assert result.returncode == 2 and "--accept_changes" in result.stderr
    for flag, value, was in changes:
        assert f"{flag} is {value}, was {was}" in result.stderr


def test_a_pipeline_is_sampled(tmp_path):
    result = run_program(
        *("sample", "--model", RUNS / "pipeline", "--num_images", 2, "--num_inference_steps", 2, "--device", "CPU"),
        *("--class_label", 3, "--output_dir", tmp_path / "samples"),
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "samples" / "grid.png").is_file()
    index = json.loads((RUNS / "pipeline" / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"

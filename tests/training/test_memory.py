"""The memory of a training step: the formula by hand, and against MindSpore's own plan on the stand-in for CANN."""

from __future__ import annotations

import json
import re

import pytest
from conftest import run_program
from standin import run_on_standin

from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.models.memory import MemoryUse, estimate_activations, unet_layers
from mindone_ddpm.training.memory import is_enough

with quiet_imports():
    from mindone.diffusers import UNet2DModel

MIB, GIB = 2**20, 2**30
TOLERANCE = 0.15  # of the formula, as docs/ascend.md says


def make_unet(**settings):
    return UNet2DModel(
        **{"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 8}
        | {"block_out_channels": (32, 64), "attention_head_dim": 8}
        | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
        | settings
    )


@pytest.fixture(scope="module")
def unet():
    return make_unet()


def test_every_trained_weight_but_the_embeddings_and_the_last_layer_has_a_place(unet):
    layers = list(unet_layers(unet, 4, half=False, checkpointing=False, text_tokens=77))
    total = sum(4 * parameter.size for parameter in unet.trainable_params())
    elsewhere = ("time_embedding", "conv_norm_out", "conv_out")
    others = sum(4 * p.size for name, p in unet.parameters_and_names() if name.startswith(elsewhere))
    assert sum(layer.gradients for layer in layers) == total - others


@pytest.mark.parametrize(("half", "normalised", "other"), [(False, 8, 4), (True, 6, 2)])
def test_a_residual_layer_by_hand(unet, half, normalised, other):
    """The second layer, 32 channels to 32 at 8x8: input of each normalisation in float32, its output, SiLU's output."""
    layer = list(unet_layers(unet, 4, half=half, checkpointing=False, text_tokens=77))[1]
    weights = 2 * sum(p.size for p in unet.down_blocks[0].resnets[0].get_parameters()) if half else 0
    assert layer.kept == 2 * (normalised + other) * 32 * 8 * 8 * 4 + weights
    assert layer.working == 2 * 4 * 32 * 8 * 8 * 4


def test_what_it_depends_on(unet):
    def estimate(batch_size=64, half=False, checkpointing=False):
        return estimate_activations(unet, batch_size, half, checkpointing)

    per_image = (estimate(256) - estimate(128)) / 128
    assert per_image == pytest.approx((estimate(512) - estimate(256)) / 256)
    assert estimate(half=True) < estimate()
    assert estimate(checkpointing=True) < 0.7 * estimate()
    assert estimate(1) > 3 * 4 * sum(parameter.size for parameter in unet.trainable_params())  # the update's


def test_enough_leaves_a_tenth_to_the_driver_and_the_kernels():
    assert is_enough(MemoryUse(0, 0, 0, 0, peak=28.8 * GIB), 32)
    assert not is_enough(MemoryUse(0, 0, 0, 0, peak=28.9 * GIB), 32)


def plan_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# (.+?): (.+)$", text, re.MULTILINE))


def mebibytes(text: str) -> float:
    number, unit = text.split(",")[0].split()
    return float(number) * {"MiB": 1, "GiB": 1024}[unit]


def flags_of(model: dict, tmp_path, *flags: object) -> list[object]:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(dict(model)))
    return [
        *("train", "--dry_run", "--dataset_name", "digits", "--output_dir", tmp_path / "run"),
        *("--model_config_name_or_path", path, *flags),
    ]


def compare(tmp_path, model: dict, *flags: object) -> None:
    """MindSpore's figure on the stand-in and the formula's on the CPU, for the same flags."""
    flags = flags_of(model, tmp_path, *flags)
    measured = run_on_standin("-m", "mindone_ddpm", *flags, "--device", "Ascend", STANDIN_COMPUTE="0")
    assert measured.returncode == 0, measured.stderr[-2000:]
    estimated = run_program(*flags, "--device", "CPU", cwd=tmp_path)
    assert estimated.returncode == 0, estimated.stderr
    ours, theirs = plan_of(estimated.stdout), plan_of(measured.stdout)
    assert "as allocated in one step; 32 GiB: enough" in theirs["peak memory"]
    assert "estimated for Ascend" in ours["peak memory"]
    for part in ("parameters", "optimizer", "EMA"):
        assert ours[part] == theirs[part]
    assert mebibytes(ours["peak memory"]) == pytest.approx(mebibytes(theirs["peak memory"]), rel=TOLERANCE)
    assert not (tmp_path / "run").exists()


def test_the_plan_of_a_small_network_is_as_the_formula_says(unet, tmp_path):
    compare(
        tmp_path, unet.config, "--image_size", 8, "--channels", 1, "--train_batch_size", 256, "--use_ema",
        "--mixed_precision", "no",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--mixed_precision", "fp16"],
        ["--mixed_precision", "bf16", "--use_ema"],
        ["--mixed_precision", "fp16", "--gradient_accumulation_steps", 2],
        ["--mixed_precision", "fp16", "--gradient_checkpointing"],
    ],
)
def test_the_plan_of_a_larger_network_is_as_the_formula_says(tmp_path, flags):
    model = make_unet(
        sample_size=32, block_out_channels=(64, 128, 128), layers_per_block=2, norm_num_groups=32,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).config  # fmt: skip
    compare(tmp_path, model, "--image_size", 32, "--channels", 1, "--train_batch_size", 32, *flags)

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
PARTS = ("parameters", "optimizer", "EMA", "activations")


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
    layers = list(unet_layers(unet, 4, half=False, checkpointing=False, flat=True, text_tokens=77))
    total = sum(4 * parameter.size for parameter in unet.trainable_params())
    elsewhere = ("time_embedding", "conv_norm_out", "conv_out")
    others = sum(4 * p.size for name, p in unet.parameters_and_names() if name.startswith(elsewhere))
    assert sum(layer.gradients for layer in layers) == total - others


@pytest.mark.parametrize(("half", "normalised", "other"), [(False, 8, 4), (True, 6, 2)])
def test_a_residual_layer_by_hand(unet, half, normalised, other):
    """The second layer, 32 channels to 32 at 8x8: input of each normalisation in float32, its output, SiLU's output."""
    layer = list(unet_layers(unet, 4, half=half, checkpointing=False, flat=True, text_tokens=77))[1]
    assert layer.kept == 2 * (normalised + other) * 32 * 8 * 8 * 4
    assert layer.working == 2 * 4 * 32 * 8 * 8 * 4


def test_what_it_depends_on(unet):
    def estimate(batch_size=64, half=False, checkpointing=False):
        return estimate_activations(unet, batch_size, half, checkpointing)

    per_image = (estimate(256) - estimate(128)) / 128
    assert per_image == pytest.approx((estimate(512) - estimate(256)) / 256)
    assert estimate(half=True) < estimate()
    assert estimate(checkpointing=True) < 0.7 * estimate()
    assert estimate(1) == 2 * 4 * sum(parameter.size for parameter in unet.trainable_params())  # the update's


def test_enough_leaves_a_tenth_to_the_driver_and_the_kernels():
    assert is_enough(MemoryUse(0, 0, 0, 0, peak=28.8 * GIB), 32)
    assert not is_enough(MemoryUse(0, 0, 0, 0, peak=28.9 * GIB), 32)


def mebibytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"MiB": 1, "GiB": 1024}[unit]


def check_plan(tmp_path, model: dict, *flags: object) -> dict[str, float]:
    """A dry run on the stand-in: MindSpore's peak is near the formula's. Returns the parts, in MiB."""
    path = tmp_path / "model.json"
    path.write_text(json.dumps(dict(model)))
    result = run_on_standin(
        "-m", "mindone_ddpm", "train", "--dry_run", "--device", "Ascend", "--dataset_name", "digits", "--channels", 1,
        "--model_config_name_or_path", path, "--output_dir", tmp_path / "run", *flags, STANDIN_COMPUTE="0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert not (tmp_path / "run").exists()
    plan = dict(re.findall(r"^# (.+?): (.+)$", result.stdout, re.MULTILINE))
    size = r"([\d.]+ [MG]iB)"
    found = re.fullmatch(
        rf"{size}, as allocated in one step \(by formula {size}\); 32 GiB: enough, 64 GiB: enough", plan["peak memory"]
    )
    assert found, plan["peak memory"]
    peak, by_formula = map(mebibytes, found.groups())
    assert by_formula == pytest.approx(peak, rel=TOLERANCE), plan["peak memory"]
    parts = {name: mebibytes(plan[name]) for name in PARTS if plan[name] != "none"}
    assert sum(parts.values()) == pytest.approx(peak, rel=0.02)
    return parts


def test_the_plan_of_a_small_network_is_as_the_formula_says(tmp_path):
    model = make_unet(block_out_channels=(64, 128), norm_num_groups=32)
    parts = check_plan(
        tmp_path, model.config, "--image_size", 8, "--train_batch_size", 256, "--use_ema", "--mixed_precision", "no"
    )
    weights = 4 * sum(parameter.size for parameter in model.trainable_params()) / MIB
    assert (parts["parameters"], parts["EMA"]) == pytest.approx((weights, weights), abs=0.5)
    assert parts["optimizer"] == pytest.approx(2 * weights, abs=0.5)


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
    check_plan(tmp_path, model, "--image_size", 32, "--train_batch_size", 32, *flags)


def test_on_a_cpu_the_plan_is_by_formula(tmp_path):
    """Two numbers that the formula must give: of MindSpore's plan on Ascend, they are within its tolerance."""
    flags = ["train", "--dry_run", "--dataset_name", "digits", "--channels", 1, "--output_dir", tmp_path / "run"]
    result = run_program(*flags, "--image_size", 8, "--train_batch_size", 16, "--device", "CPU", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = re.search(r"# peak memory: (\d+) MiB, estimated for Ascend with precision no;", result.stdout)
    assert found and int(found.group(1)) == pytest.approx(15.8, rel=TOLERANCE)

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers import UNet2DModel

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.unet import make_unet, num_parameters

TORCH_UNET = Path(__file__).parent.parent / "data" / "torch_unet"


def test_forward_agrees_with_pytorch_diffusers(either_mode):
    """Weights, input and output come from PyTorch diffusers: see make_unet_reference.py."""
    unet = UNet2DModel.from_pretrained(str(TORCH_UNET))
    reference = np.load(TORCH_UNET / "reference.npz")
    sample, timesteps = ms.Tensor(reference["sample"]), ms.Tensor(reference["timesteps"].astype(np.int32))
    output = unet(sample, timesteps)[0].asnumpy()
    np.testing.assert_allclose(output, reference["output"], atol=2e-5)


@pytest.mark.parametrize(("preset", "low", "high"), [("tiny", 0.3e6, 1e6), ("small", 6e6, 7e6)])
def test_sizes_of_the_presets(graph_mode, preset, low, high):
    unet = make_unet(TrainingConfig(preset=preset, image_size=32))
    assert low < num_parameters(unet) < high


@pytest.mark.parametrize(
    "settings",
    [
        {"block_out_channel": [8, 16]},
        {"block_out_channels": [8, 16], "down_block_types": ["NoSuchBlock", "DownBlock2D"]},
        {"block_out_channels": [8, 16, 16]},
        {"block_out_channels": 5},
    ],
)
def test_a_configuration_that_makes_no_unet_is_one_line(graph_mode, tmp_path, settings):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(
        ConfigError, match=r"--model_config_name_or_path .*config.json: no UNet2DModel can be made of it"
    ):
        make_unet(TrainingConfig(model_config_name_or_path=str(tmp_path / "config.json"), image_size=16))


@pytest.mark.slow
def test_the_tutorials_model_has_113_7_million_parameters(graph_mode):
    assert round(num_parameters(make_unet(TrainingConfig())) / 1e6, 1) == 113.7


def test_the_seed_decides_the_weights(graph_mode):
    config = TrainingConfig(preset="tiny", image_size=8, channels=1)
    weights = []
    for seed in (1, 1, 2):
        ms.set_seed(seed)
        weights.append(make_unet(config).conv_in.weight.asnumpy())
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()

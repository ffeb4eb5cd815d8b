from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindone_ddpm import models
from mindone_ddpm.config import ConfigError, TrainingConfig
from mindone_ddpm.unconditional import DenoisingLoss

TORCH_UNET = Path(__file__).parent / "data" / "torch_unet"


def test_forward_agrees_with_pytorch_diffusers(either_mode):
    """Weights, input and output come from PyTorch diffusers: see make_unet_reference.py."""
    unet = models.UNet2DModel.from_pretrained(str(TORCH_UNET))
    reference = np.load(TORCH_UNET / "reference.npz")
    sample, timesteps = ms.Tensor(reference["sample"]), ms.Tensor(reference["timesteps"].astype(np.int32))
    output = unet(sample, timesteps)[0].asnumpy()
    np.testing.assert_allclose(output, reference["output"], atol=2e-5)


@pytest.mark.parametrize(("preset", "low", "high"), [("tiny", 0.3e6, 1e6), ("small", 6e6, 7e6)])
def test_sizes_of_the_presets(graph_mode, preset, low, high):
    unet = models.make_unet(TrainingConfig(preset=preset, image_size=32))
    assert low < models.num_parameters(unet) < high


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
        models.make_unet(TrainingConfig(model_config_name_or_path=str(tmp_path / "config.json"), image_size=16))


@pytest.mark.slow
def test_the_tutorials_model_has_113_7_million_parameters(graph_mode):
    assert round(models.num_parameters(models.make_unet(TrainingConfig())) / 1e6, 1) == 113.7


def test_the_seed_decides_the_weights(graph_mode):
    config = TrainingConfig(preset="tiny", image_size=8, channels=1)
    weights = []
    for seed in (1, 1, 2):
        ms.set_seed(seed)
        weights.append(models.make_unet(config).conv_in.weight.asnumpy())
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_add_noise_is_the_closed_form(graph_mode, schedule):
    scheduler = models.make_noise_scheduler(TrainingConfig(ddpm_beta_schedule=schedule))
    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, 1000)
        np.testing.assert_allclose(scheduler.alphas_cumprod.asnumpy(), np.cumprod(1 - betas), rtol=1e-4)
    generator = np.random.default_rng(0)
    images, noise = generator.standard_normal((2, 3, 1, 4, 4))
    timesteps = np.array([0, 500, 999])
    alphas = scheduler.alphas_cumprod.asnumpy().astype(np.float64)[timesteps].reshape(-1, 1, 1, 1)
    loss = DenoisingLoss(None, scheduler.alphas_cumprod.asnumpy(), "epsilon")
    tensors = ms.Tensor(images, ms.float32), ms.Tensor(noise, ms.float32), ms.Tensor(timesteps, ms.int32)
    expected = np.sqrt(alphas) * images + np.sqrt(1 - alphas) * noise
    np.testing.assert_allclose(loss.add_noise(*tensors).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scheduler.add_noise(*tensors).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_loss_of_a_perfect_prediction_is_zero_and_of_zeros_is_the_targets_power(graph_mode, prediction_type):
    scheduler = models.make_noise_scheduler(TrainingConfig(prediction_type=prediction_type))
    alphas_cumprod = scheduler.alphas_cumprod.asnumpy()
    generator = np.random.default_rng(0)
    images, noise = generator.standard_normal((2, 3, 1, 4, 4)).astype(np.float32)
    timesteps = np.array([3, 500, 990], dtype=np.int32)
    alphas = alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    target = {
        "epsilon": noise,
        "sample": images,
        "v_prediction": np.sqrt(alphas) * noise - np.sqrt(1 - alphas) * images,
    }[prediction_type]

    class Answer(ms.nn.Cell):
        def __init__(self, answer):
            super().__init__()
            self.answer = ms.Tensor(answer, ms.float32)

        def construct(self, noisy, timesteps):
            return (self.answer,)

    tensors = ms.Tensor(images), ms.Tensor(noise), ms.Tensor(timesteps)
    perfect = DenoisingLoss(Answer(target), alphas_cumprod, prediction_type)(*tensors).asnumpy()
    np.testing.assert_allclose(perfect, 0, atol=1e-10)
    silent = DenoisingLoss(Answer(0 * target), alphas_cumprod, prediction_type)(*tensors).asnumpy()
    np.testing.assert_allclose(silent, (target**2).mean((1, 2, 3)), rtol=1e-5)

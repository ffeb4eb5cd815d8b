from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.job import UnconditionalLoss
from mindone_ddpm.objectives import choose
from mindone_ddpm.objectives.base import draw_noise
from mindone_ddpm.objectives.ddpm import DDPMObjective, timestep_weights


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_add_noise_is_the_closed_form(graph_mode, schedule):
    scheduler = choose.make_noise_scheduler(TrainingConfig(ddpm_beta_schedule=schedule))
    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, 1000)
        np.testing.assert_allclose(scheduler.alphas_cumprod.asnumpy(), np.cumprod(1 - betas), rtol=1e-4)
    generator = np.random.default_rng(0)
    images, noise = generator.standard_normal((2, 3, 1, 4, 4))
    timesteps = np.array([0, 500, 999])
    alphas = scheduler.alphas_cumprod.asnumpy().astype(np.float64)[timesteps].reshape(-1, 1, 1, 1)
    objective = DDPMObjective(scheduler.alphas_cumprod.asnumpy(), "epsilon")
    tensors = ms.Tensor(images, ms.float32), ms.Tensor(noise, ms.float32), ms.Tensor(timesteps, ms.int32)
    expected = np.sqrt(alphas) * images + np.sqrt(1 - alphas) * noise
    np.testing.assert_allclose(objective.corrupt(*tensors)[0].asnumpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scheduler.add_noise(*tensors).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_loss_of_a_perfect_prediction_is_zero_and_of_zeros_is_the_targets_power(graph_mode, prediction_type):
    scheduler = choose.make_noise_scheduler(TrainingConfig(prediction_type=prediction_type))
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

    objective = DDPMObjective(alphas_cumprod, prediction_type)

    def loss(prediction):
        wanted, weight = objective.corrupt(ms.Tensor(images), ms.Tensor(noise), ms.Tensor(timesteps))[2:]
        return objective.loss(ms.Tensor(prediction), wanted, weight).asnumpy()

    np.testing.assert_allclose(loss(target), 0, atol=1e-10)
    silent = loss(0 * target)
    np.testing.assert_allclose(silent, (target**2).mean((1, 2, 3)), rtol=1e-5)


# Three noise levels: SNR 9, 1 and 1/4.
ALPHAS = np.array([0.9, 0.5, 0.2])


@pytest.mark.parametrize(
    ("prediction_type", "expected"),
    [
        ("epsilon", [2 / 9, 1.0, 1.0]),  # min(SNR, 2) / SNR
        ("sample", [2.0, 1.0, 0.25]),  # min(SNR, 2)
        ("v_prediction", [2 / 10, 1 / 2, 0.25 / 1.25]),  # min(SNR, 2) / (SNR + 1)
    ],
)
def test_min_snr_by_hand(prediction_type, expected):
    np.testing.assert_allclose(timestep_weights(ALPHAS, prediction_type, snr_gamma=2.0), expected, rtol=1e-12)


def test_min_snr_makes_the_three_predictions_the_same_loss():
    """A wrong x0 by d is a wrong eps by d sqrt(SNR) and a wrong v by d sqrt(SNR + 1)."""
    snr = ALPHAS / (1 - ALPHAS)
    losses = {"sample": np.ones(3), "epsilon": snr, "v_prediction": snr + 1}
    for prediction_type, loss in losses.items():
        weighted = timestep_weights(ALPHAS, prediction_type, snr_gamma=5.0) * loss
        np.testing.assert_allclose(weighted, np.minimum(snr, 5.0))


def test_weights_stay_finite_where_there_is_no_signal():
    alphas = np.array([0.9, 0.0])
    for prediction_type in ("epsilon", "sample", "v_prediction"):
        assert np.isfinite(timestep_weights(alphas, prediction_type, snr_gamma=5.0)).all()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("mse", (4 + 0.01) / 2), ("l1", (2 + 0.1) / 2), ("huber", 0.5 * ((4.25**0.5 - 0.5) + (0.26**0.5 - 0.5)))],
)
def test_distances_by_hand(either_mode, loss_type, expected):
    class Loss(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.objective = DDPMObjective(ALPHAS, "epsilon", loss_type, 0.5, weights=np.array([1.0, 3.0, 1.0]))

        def construct(self, prediction, samples, noise, times):
            _, _, target, weight = self.objective.corrupt(samples, noise, times)
            return self.objective.loss(prediction, target, weight)

    loss = Loss()
    prediction = ms.Tensor(np.array([2.0, -0.1]).reshape(1, 1, 1, 2), ms.float32)
    nothing = ms.Tensor(np.zeros((1, 1, 1, 2)), ms.float32)
    found = loss(prediction, nothing, nothing, ms.Tensor([1], ms.int32)).asnumpy()
    np.testing.assert_allclose(found, [3 * expected], rtol=1e-5)


def test_weights_the_published_scripts_give_to_sample_prediction(graph_mode):
    config = TrainingConfig(prediction_type="sample")
    scheduler = choose.make_noise_scheduler(config)
    alphas = scheduler.alphas_cumprod.asnumpy().astype(np.float64)
    weights = DDPMObjective.for_scheduler(scheduler, config, config.loss_weighting).weights.asnumpy()
    np.testing.assert_allclose(weights, alphas / (1 - alphas), rtol=1e-5)
    plain = DDPMObjective.for_scheduler(scheduler, config, "uniform")
    assert not plain.is_weighted


def test_zero_terminal_snr(graph_mode):
    """Lin et al. 2024, algorithm 1: sqrt(a_t) shifted to end at 0 and scaled to begin as before."""
    config = TrainingConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    scheduler = choose.make_noise_scheduler(config)
    roots = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    np.testing.assert_allclose(np.sqrt(scheduler.alphas_cumprod.asnumpy()), expected, atol=2e-5)
    assert scheduler.alphas_cumprod.asnumpy()[-1] == 0
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == 999  # sampling begins where there is nothing but noise


def test_noise_offset_and_input_perturbation():
    config = TrainingConfig(noise_offset=0.5, input_perturbation=0.1)
    noise, inputs = np.empty((2, 400, 3, 8, 8), np.float32)
    for row in range(400):
        inputs[row] = draw_noise(random_stream(0, 2, row), noise[row], config)
    means = noise.mean((2, 3))  # of a channel: variance 0.5^2 + 1/64
    assert abs(means.std() - np.sqrt(0.25 + 1 / 64)) < 0.02
    assert abs(np.corrcoef(means[:, 0], means[:, 1])[0, 1]) < 0.15
    assert abs((inputs - noise).std() - 0.1) < 0.002
    plain = np.empty((3, 8, 8), np.float32)
    assert draw_noise(random_stream(0, 2, 0), plain, TrainingConfig()) is None
    np.testing.assert_allclose((noise[0] - plain).std((1, 2)), 0, atol=1e-6)  # the offset is one number a channel


def test_the_input_has_the_perturbed_noise_and_the_target_the_plain_one(graph_mode):
    class Echo(ms.nn.Cell):
        def construct(self, noisy, timesteps, labels=None):
            return (noisy,)

    objective = DDPMObjective(np.array([0.0]), "epsilon")  # no signal: the input is the noise
    cell = UnconditionalLoss(Echo(), objective)
    images, noise, inputs = (ms.Tensor(np.full((1, 1, 2, 2), value), ms.float32) for value in (9.0, 1.0, 1.5))
    found = cell(images, noise, ms.Tensor([0], ms.int32), inputs).asnumpy()
    np.testing.assert_allclose(found, [0.25])

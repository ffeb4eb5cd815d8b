"""Where among the noise levels DDPM's objective trains, and EDM's preconditioning in its coordinates."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from scipy import stats

from mindone_ddpm.common.randomness import SAMPLE_STREAM, even_share, random_stream
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.objectives.choose import betas_for_data, make_noise_scheduler, make_objective
from mindone_ddpm.objectives.times import logistic, shifted


def objective_of(**settings):
    config = TrainingConfig(**settings)
    return make_objective(make_noise_scheduler(config), config, config.loss_weighting)


def levels_of(objective) -> np.ndarray:
    """sigma / alpha of each timestep."""
    return (objective.spread / objective.signal).asnumpy().astype(np.float64)


def test_logistic_and_shift_by_hand():
    assert logistic(0.0) == 0.5 and logistic(np.log(3.0)) == pytest.approx(0.75)
    assert logistic(-800.0) == 0.0 and logistic(800.0) == 1.0
    assert shifted(0.5, 3.0) == 0.75 and shifted(0.0, 3.0) == 0.0 and shifted(1.0, 3.0) == 1.0


def test_lognormal_draws_the_nearest_noise_level():
    objective = objective_of(timestep_sampling="lognormal", lognormal_mean=-0.5, lognormal_std=0.8)
    rng = np.random.default_rng(0)
    log_levels = np.log(levels_of(objective))
    drawn = log_levels[[objective.draw_time(rng) for _ in range(4000)]]
    assert stats.kstest(drawn, "norm", (-0.5, 0.8)).statistic < 0.03  # the levels are discrete
    objective.sampling = type(objective.sampling)("lognormal", 100.0, 1.0)
    assert objective.draw_time(rng) == 999
    objective.sampling = type(objective.sampling)("lognormal", -100.0, 1.0)
    assert objective.draw_time(rng) == 0


def test_logit_normal_draws_by_the_number_of_the_timestep():
    objective = objective_of(timestep_sampling="logit_normal", logit_mean=-0.5, logit_std=0.8)
    rng = np.random.default_rng(0)
    times = (np.array([objective.draw_time(rng) for _ in range(4000)]) + 0.5) / 1000
    assert stats.kstest(np.log(times / (1 - times)), "norm", (-0.5, 0.8)).statistic < 0.03


def test_uniform_draws_what_it_always_drew():
    drawn = [objective_of().draw_time(np.random.default_rng(seed)) for seed in range(5)]
    assert drawn == [int(np.random.default_rng(seed).integers(0, 1000)) for seed in range(5)]


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "lognormal"])
@pytest.mark.parametrize("objective", ["ddpm", "flow_matching"])
def test_stratified_times_have_the_distribution_and_vary_less(objective, sampling):
    settings = {"objective": objective, "timestep_sampling": sampling}
    plain, spread = objective_of(**settings), objective_of(**settings, stratified_timesteps=True)

    def drawn(made, places):
        return np.array([made.draw_time(random_stream(3, SAMPLE_STREAM, place)) for place in places], np.float64)

    assert stats.ks_2samp(drawn(plain, range(4000)), drawn(spread, range(4000))).pvalue > 0.01
    means = [np.mean([drawn(made, range(n, n + 16)) for n in range(0, 3200, 16)], axis=1) for made in (plain, spread)]
    print(f"{objective}, {sampling}: deviation of means of 16 times {means[0].std():.3g} and {means[1].std():.3g}")
    assert means[1].std() < 0.45 * means[0].std()


def test_shares_are_spread_evenly_wherever_a_batch_begins():
    shares = np.array([even_share(random_stream(1, SAMPLE_STREAM, place)) for place in range(1000, 3000)])
    assert shares.min() >= 0.0 and shares.max() < 1.0
    for first in range(0, 1000, 97):
        for count in (5, 16, 64):
            gaps = np.diff(np.sort(shares[first : first + count]))
            assert len(np.unique(gaps.round(9))) <= 3 and gaps.max() < 2.7 / count
    assert even_share(random_stream(2, SAMPLE_STREAM, 1000)) != pytest.approx(shares[0])
    rng = random_stream(1, SAMPLE_STREAM, 1000)
    rng.standard_normal(100)
    assert even_share(rng) == shares[0]  # whatever was drawn before


def test_edms_preconditioning_is_v_prediction(graph_mode):
    """Karras et al. 2022, table 1 and equation 8, with a data deviation of 1.

    Input, target and weight of the network F are those of v_prediction; the target has the other sign, which a
    network's last layer takes up.
    """
    objective = objective_of(prediction_type="v_prediction", timestep_sampling="lognormal")
    generator = np.random.default_rng(0)
    images, noise = generator.standard_normal((2, 5, 3, 4, 4))
    timesteps = np.array([0, 100, 400, 800, 950])
    sigma = levels_of(objective)[timesteps].reshape(-1, 1, 1, 1)
    c_skip = 1.0 / (sigma**2 + 1.0)
    c_out = sigma / np.sqrt(sigma**2 + 1.0)
    c_in = 1.0 / np.sqrt(sigma**2 + 1.0)
    weight = (sigma**2 + 1.0) / sigma**2
    noisy = images + sigma * noise
    target_of_f = (images - c_skip * noisy) / c_out
    tensors = ms.Tensor(images, ms.float32), ms.Tensor(noise, ms.float32), ms.Tensor(timesteps, ms.int32)
    model_input, _, target, ours = objective.corrupt(*tensors)
    np.testing.assert_allclose(model_input.asnumpy(), c_in * noisy, atol=1e-4)
    np.testing.assert_allclose(target.asnumpy(), -target_of_f, atol=1e-4)
    np.testing.assert_allclose(weight * c_out**2, 1.0, rtol=1e-12)  # the weight of F's squared error
    assert ours is None


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_deviation_of_the_data_moves_all_noise_levels(graph_mode, schedule):
    plain, half = (objective_of(ddpm_beta_schedule=schedule, data_std=std) for std in (1.0, 0.5))
    np.testing.assert_allclose(levels_of(half)[:900], 0.5 * levels_of(plain)[:900], rtol=2e-3)
    saved = half.scheduler().config
    assert len(saved.trained_betas) == 1000  # so every pipeline that loads it samples at these levels
    products = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(betas_for_data(products, 1.0), np.linspace(1e-4, 0.02, 1000), rtol=1e-9)

"""Denoising steps by numbers that are computed beforehand, against mindone's own schedulers and closed forms."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import schedulers
from mindone_ddpm.models.schedulers import FLOW_SCHEDULERS, SCHEDULERS
from mindone_ddpm.objectives import choose
from mindone_ddpm.sampling.plans import plan_steps
from mindone_ddpm.sampling.steps import PlannedSteps, SchedulerSteps, make_steps

pytestmark = pytest.mark.usefixtures("graph_mode")
SHAPE = (2, 1, 4, 4)


def make(name: str, steps: int, clip_sample: bool | None = None, spacing: str | None = None, **settings):
    sampler = schedulers.make_sampler(
        name, choose.make_noise_scheduler(TrainingConfig(**settings)), clip_sample, spacing
    )
    sampler.set_timesteps(steps)
    return sampler, sampler.timesteps.asnumpy().tolist()


def denoise(steps, timesteps, images, output_of):
    """The images after each step. Each image has a generator of its own."""
    rngs = [np.random.default_rng(number) for number in range(len(images))]
    for number, timestep in enumerate(timesteps):
        output = output_of(steps.model_input(images, number), images, timestep)
        images = steps.step(output, images, number, rngs)
        yield images.asnumpy()


def some_network(model_input, images, timestep):
    """Not linear, and other for each timestep."""
    return ops.tanh(model_input * 0.9 + timestep / 1000.0)


def noise(scale: float = 1.0) -> ms.Tensor:
    return ms.Tensor(np.random.default_rng(7).standard_normal(SHAPE) * scale, ms.float32)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in SCHEDULERS
        for kind in ("epsilon", "v_prediction", "sample")
        if kind != "sample" or name not in schedulers.WITHOUT_SAMPLE_PREDICTION  # mindone has no formula for it
    ],
)
def test_every_step_is_mindones(name, kind):
    settings = [(6, None, None, 0.0), (7, False, "trailing", 0.0), (20, None, "linspace", 0.7)]
    for steps, clip_sample, spacing, eta in settings:
        sampler, timesteps = make(name, steps, clip_sample, spacing, prediction_type=kind)
        start = noise(float(sampler.init_noise_sigma))
        planned = PlannedSteps(plan_steps(sampler, timesteps, eta))
        found = np.stack(list(denoise(planned, timesteps, start, some_network)))
        expected = np.stack(list(denoise(SchedulerSteps(sampler, timesteps, eta), timesteps, start, some_network)))
        largest = np.abs(expected).max(axis=(1, 2, 3, 4), keepdims=True)
        assert (np.abs(found - expected) <= 5e-5 * np.maximum(largest, 1.0)).all(), (steps, clip_sample, spacing)


@pytest.mark.parametrize(
    "name", [*(name for name in SCHEDULERS if name not in ("ddpm", "euler_ancestral", "pndm")), "unipc of order 3"]
)
def test_data_that_are_one_image_are_found_exactly(name):
    """The right prediction for them is known; every deterministic sampler then ends at the image.

    But pndm, which ends at the noise of timestep 0.
    """
    sampler, timesteps = make(name.split()[0], 8, False, ddpm_beta_schedule="squaredcos_cap_v2")
    if "order" in name:  # mindone's own step cannot do it
        sampler = type(sampler).from_config(sampler.config, solver_order=3)
        sampler.set_timesteps(8)
    products = sampler.alphas_cumprod.asnumpy().astype(np.float64)
    image = ms.Tensor(np.random.default_rng(1).uniform(-1, 1, SHAPE), ms.float32)

    def right(model_input, images, timestep):
        product = float(np.interp(timestep, np.arange(len(products)), products))
        return (model_input - image * np.sqrt(product)) * (1.0 / np.sqrt(1.0 - product))

    *_, last = denoise(make_steps(sampler, timesteps), timesteps, noise(float(sampler.init_noise_sigma)), right)
    np.testing.assert_allclose(last, image.asnumpy(), atol=5e-3)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver++", "euler"])
def test_the_last_steps_alone_are_the_last_of_all(name):
    sampler, timesteps = make(name, 8)
    if name == "dpmsolver++":  # its first step has none before it
        assert plan_steps(sampler, timesteps[3:])[1:] == plan_steps(sampler, timesteps)[4:]
    else:
        assert plan_steps(sampler, timesteps[3:]) == plan_steps(sampler, timesteps)[3:]


def make_flow(name: str, steps: int, shift: float):
    sampler = schedulers.make_sampler(name, schedulers.FlowMatchEulerDiscreteScheduler(shift=shift))
    sampler.set_timesteps(steps)
    return sampler, sampler.timesteps.asnumpy().tolist()


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_every_step_of_flow_matching_is_mindones(name):
    for steps, shift in ((6, 1.0), (20, 3.0)):
        sampler, timesteps = make_flow(name, steps, shift)
        planned = list(denoise(PlannedSteps(plan_steps(sampler, timesteps)), timesteps, noise(), some_network))
        theirs = list(denoise(SchedulerSteps(sampler, timesteps, None), timesteps, noise(), some_network))
        np.testing.assert_allclose(planned, theirs, atol=5e-5)


@pytest.mark.parametrize(
    "settings", [{"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {"disable_corrector": [1, 3]}]
)
def test_settings_of_unipc(settings):
    sampler, _ = make("unipc", 6)
    sampler = type(sampler).from_config(sampler.config, **settings)
    sampler.set_timesteps(20)
    timesteps = sampler.timesteps.asnumpy().tolist()
    planned = list(denoise(PlannedSteps(plan_steps(sampler, timesteps)), timesteps, noise(), some_network))
    theirs = list(denoise(SchedulerSteps(sampler, timesteps, None), timesteps, noise(), some_network))
    np.testing.assert_allclose(planned, theirs, atol=2e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_pndm_without_its_runge_kutta_steps(prediction_type):
    sampler, _ = make("pndm", 6, prediction_type=prediction_type)
    sampler = type(sampler).from_config(sampler.config, skip_prk_steps=True, steps_offset=1)
    sampler.set_timesteps(12)
    timesteps = sampler.timesteps.asnumpy().tolist()
    planned = list(denoise(PlannedSteps(plan_steps(sampler, timesteps)), timesteps, noise(), some_network))
    theirs = list(denoise(SchedulerSteps(sampler, timesteps, None), timesteps, noise(), some_network))
    np.testing.assert_allclose(planned, theirs, atol=2e-4)


@pytest.mark.parametrize("name", schedulers.CLIPPING_BY_THRESHOLD)
def test_fast_samplers_clip_what_the_models_own_sampler_clips(name):
    trained = choose.make_noise_scheduler(TrainingConfig())
    unclipped = type(trained).from_config(trained.config, clip_sample=False)
    wider = type(trained).from_config(trained.config, clip_sample_range=2.0)

    def clips(model, wanted=None):
        return schedulers.make_sampler(name, model, wanted).config.thresholding

    assert trained.config.clip_sample and clips(trained)
    assert not clips(unclipped) and not clips(wider) and not clips(trained, False) and clips(unclipped, True)
    assert not schedulers.make_sampler(name, schedulers.FlowMatchEulerDiscreteScheduler()).config.thresholding

    sampler, timesteps = make(name, 8)
    *_, last = denoise(make_steps(sampler, timesteps), timesteps, noise(), lambda *_: noise(20.0))
    assert np.abs(last).max() <= 1.0 + 1e-5  # the last images are the last predicted ones
    again = schedulers.make_sampler(name, sampler)
    assert again.config.thresholding and isinstance(make_steps(sampler, timesteps), PlannedSteps)
    dynamic = type(sampler).from_config(sampler.config, sample_max_value=1.5)
    assert plan_steps(dynamic, timesteps) is None


def test_what_has_no_plan_takes_mindones_own_steps():
    sampler, timesteps = make("pndm", 6)
    assert isinstance(make_steps(sampler, timesteps[2:]), SchedulerSteps)
    sampler, timesteps = make("ddim", 6)
    for settings in ({"thresholding": True}, {"variance_type": "learned_range"}):
        other = type(make("ddpm", 6)[0]).from_config(sampler.config, **settings)
        assert plan_steps(other, timesteps) is None
    heun, timesteps = make("heun", 4)
    assert plan_steps(heun, timesteps[1:]) is None  # begins with a correction

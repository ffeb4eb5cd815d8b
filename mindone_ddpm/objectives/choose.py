"""From settings, or a pipeline's scheduler, to the noise levels and the objective."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.models.schedulers import is_flow, make_sampler
from mindone_ddpm.objectives.base import Objective
from mindone_ddpm.objectives.config import NoiseScheduleConfig, TimestepConfig
from mindone_ddpm.objectives.ddpm import DDPMObjective
from mindone_ddpm.objectives.flow_matching import FlowMatchingObjective
from mindone_ddpm.objectives.times import TimestepSampling

with quiet_imports():
    from mindone.diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler


def make_noise_scheduler(config: NoiseScheduleConfig) -> Any:
    """The noise levels to train on. With the last one pure noise, sampling must begin there: trailing steps."""
    if config.objective == "flow_matching":
        return FlowMatchEulerDiscreteScheduler(config.ddpm_num_steps, shift=config.flow_shift)
    scheduler = DDPMScheduler(
        num_train_timesteps=config.ddpm_num_steps,
        beta_schedule=config.ddpm_beta_schedule,
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        timestep_spacing="trailing" if config.rescale_betas_zero_snr else "leading",
    )
    if config.data_std == 1.0:
        return scheduler
    betas = betas_for_data(scheduler.alphas_cumprod.asnumpy().astype(np.float64), config.data_std)
    return DDPMScheduler.from_config(scheduler.config, trained_betas=betas.tolist())


def betas_for_data(alphas_cumprod: np.ndarray, data_std: float) -> np.ndarray:
    """Betas with which data of the deviation ``data_std`` have, at each timestep, the signal-to-noise ratio that data
    of deviation 1 have with ``alphas_cumprod``: all ratios are divided by the data's variance.

    Returns:
        float64 like ``alphas_cumprod``.
    """
    ratios = alphas_cumprod / (1.0 - alphas_cumprod) / data_std**2
    products = ratios / (1.0 + ratios)
    return 1.0 - products / np.concatenate([[1.0], products[:-1]])


def training_scheduler(scheduler: Any) -> Any:
    """A scheduler with the noise levels of a pipeline's scheduler, as the objectives want it."""
    return make_sampler("euler", scheduler) if is_flow(scheduler) else DDPMScheduler.from_config(scheduler.config)


def make_objective(scheduler: Any, config: TimestepConfig, weighting: str = "auto") -> Objective:
    """The objective on a scheduler's noise levels. ``weighting``: see :meth:`DDPMObjective.for_scheduler`."""
    sampling = TimestepSampling.of(config)
    if is_flow(scheduler):
        return FlowMatchingObjective(scheduler, sampling, config.loss_type, config.huber_c)
    return DDPMObjective.for_scheduler(scheduler, config, weighting, sampling)

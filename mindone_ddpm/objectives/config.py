"""Settings of the noise schedule and of what the model predicts."""

from __future__ import annotations

from dataclasses import dataclass

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import BETA_SCHEDULES, PREDICTION_TYPES


@dataclass
class NoiseScheduleConfig:
    """The noise levels, and what the model predicts."""

    ddpm_num_steps: int = setting(1000, "noise levels", low=2)
    ddpm_beta_schedule: str = setting("linear", "how the noise grows", choices=BETA_SCHEDULES)
    rescale_betas_zero_snr: bool = setting(
        False, "shift the noise levels so that the last is pure noise; not with prediction_type epsilon"
    )
    prediction_type: str = setting("epsilon", "what the UNet predicts", choices=PREDICTION_TYPES)
    loss_weighting: str = setting(
        "auto",
        "of timesteps, without snr_gamma; auto: snr for prediction_type sample, as the published scripts have it, "
        "else uniform",
        choices=["auto", "uniform", "snr"],
    )

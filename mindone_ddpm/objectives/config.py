"""Settings of the noise schedule and of what the model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import Settings, setting
from mindone_ddpm.config.groups import BETA_SCHEDULES, PREDICTION_TYPES


@dataclass
class NoiseScheduleConfig(Settings):
    """The noise levels, and what the model predicts."""

    heading: ClassVar[str] = "noise levels"

    ddpm_num_steps: int = setting(1000, "noise levels", low=2, resume="locked")
    ddpm_beta_schedule: str = setting("linear", "how the noise grows", choices=BETA_SCHEDULES, resume="locked")
    rescale_betas_zero_snr: bool = setting(
        False,
        "shift the noise levels so that the last is pure noise; not with prediction_type epsilon",
        resume="locked",
    )
    prediction_type: str = setting("epsilon", "what the UNet predicts", choices=PREDICTION_TYPES, resume="locked")
    loss_weighting: str = setting(
        "auto",
        "of timesteps, without snr_gamma; auto: snr for prediction_type sample, as the published scripts have it, "
        "else uniform",
        choices=["auto", "uniform", "snr"],
        resume="locked",
    )

    def own_problems(self) -> list[str]:
        problems = []
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            problems.append(
                "--rescale_betas_zero_snr and --prediction_type epsilon: from pure noise the noise tells nothing; "
                "use v_prediction or sample"
            )
        if self.loss_weighting == "snr" and self.prediction_type != "sample":
            problems.append(f"--loss_weighting snr: is for --prediction_type sample, not {self.prediction_type}")
        return problems

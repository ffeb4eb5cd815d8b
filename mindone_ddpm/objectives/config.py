"""Settings of the noise schedule and of what the model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import BETA_SCHEDULES, PREDICTION_TYPES, LossConfig

OBJECTIVES = ["auto", "ddpm", "flow_matching"]
TIMESTEP_SAMPLINGS = ["uniform", "logit_normal", "lognormal"]
NOISE_COUPLINGS = ["independent", "optimal_transport"]


@dataclass
class TimestepConfig(LossConfig):
    """Where among the noise levels a model is trained."""

    heading: ClassVar[str] = "loss"

    timestep_sampling: str = setting(
        "uniform",
        "where among the noise levels to train; logit_normal: in the middle; lognormal: where noise and data are of "
        "like size, as EDM does",
        choices=TIMESTEP_SAMPLINGS,
        resume="locked",
    )
    stratified_timesteps: bool = setting(
        False,
        "spread the noise levels of successive images evenly over their distribution instead of drawing each by "
        "itself: the loss of a batch varies less",
        resume="locked",
    )
    logit_mean: float = setting(0.0, "with logit_normal: above 0 towards noise, below towards data", resume="locked")
    logit_std: float = setting(1.0, "with logit_normal: its width", above=0, resume="locked")
    lognormal_mean: float = setting(-1.2, "with lognormal: mean of the logarithm of noise over signal", resume="locked")
    lognormal_std: float = setting(1.2, "with lognormal: its deviation", above=0, resume="locked")


@dataclass
class NoiseScheduleConfig(TimestepConfig):
    """The noise levels, and what the model predicts."""

    heading: ClassVar[str] = "noise levels"

    objective: str = setting(
        "auto",
        "ddpm: noise levels of a schedule, and prediction_type; flow_matching: straight paths, and their velocity; "
        "auto: that of the pretrained pipeline, else ddpm",
        choices=OBJECTIVES,
        resume="locked",
    )
    flow_shift: float = setting(
        1.0,
        "with flow_matching: above 1 more of training and sampling at high noise, for large images; 3 is usual",
        above=0,
        resume="locked",
    )
    noise_coupling: str = setting(
        "independent",
        "with flow_matching: optimal_transport gives each image of a batch the noise that lies near it, among images "
        "of its class; fewer steps are needed",
        choices=NOISE_COUPLINGS,
        resume="locked",
    )
    data_std: float = setting(
        1.0,
        "with ddpm: deviation of the images' values; the noise levels become those of data with deviation 1, times it",
        above=0,
        resume="locked",
    )

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
        if self.data_std != 1.0 and self.rescale_betas_zero_snr:
            problems.append("--data_std and --rescale_betas_zero_snr: give only one of them")
        if self.objective == "flow_matching":
            problems += [
                f"--{name}: has no meaning with --objective flow_matching" for name in self.not_default(OF_DDPM)
            ]
        elif self.objective == "ddpm":
            problems += [
                f"--{name}: has a meaning with --objective flow_matching only"
                for name in self.not_default(OF_FLOW_MATCHING)
            ]
        return problems


# Settings of one objective alone.
OF_FLOW_MATCHING = ("flow_shift", "noise_coupling")
OF_DDPM = (
    "ddpm_beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
    "loss_weighting",
    "snr_gamma",
    "data_std",
)

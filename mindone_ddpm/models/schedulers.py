"""Samplers: schedulers of mindone by name."""

from __future__ import annotations

from typing import Any

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )

SCHEDULERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "pndm": PNDMScheduler,
}

# mindone has no formula for these with prediction_type sample.
WITHOUT_SAMPLE_PREDICTION = ("euler_ancestral", "pndm")


def make_sampler(
    name: str, scheduler: Any, clip_sample: bool | None = None, timestep_spacing: str | None = None
) -> Any:
    """A sampler on the noise levels of ``scheduler``.

    Args:
        name: a key of ``SCHEDULERS``.
        scheduler: any scheduler of mindone.
        clip_sample, timestep_spacing: None: as ``scheduler`` has them.

    Raises:
        ConfigError: it does not support the model's prediction type.
    """
    if name in WITHOUT_SAMPLE_PREDICTION and scheduler.config.prediction_type == "sample":
        raise ConfigError(f"--scheduler {name}: cannot use a model that predicts the sample; use ddim or dpmsolver++")
    given: dict[str, Any] = {"clip_sample": clip_sample, "timestep_spacing": timestep_spacing}
    changes = {key: value for key, value in given.items() if value is not None}
    if name == "dpmsolver++":
        changes["algorithm_type"] = "dpmsolver++"
    return SCHEDULERS[name].from_config(scheduler.config, **changes)


def sampler_name(scheduler: Any) -> str:
    """The key in ``SCHEDULERS`` of a scheduler's class, or the name of the class."""
    return next((name for name, kind in SCHEDULERS.items() if type(scheduler) is kind), type(scheduler).__name__)

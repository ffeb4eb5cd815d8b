"""Samplers: schedulers of mindone by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.lazy_imports import lazy_imports
from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
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

# The same for models of flow matching.
FLOW_SCHEDULERS = {
    "euler": FlowMatchEulerDiscreteScheduler,
    "heun": FlowMatchHeunDiscreteScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}

# What is taken where no sampler is named: of all, with every objective, it needs the fewest evaluations.
FAST_SAMPLER, FAST_STEPS = "dpmsolver++", 25

# Samplers that cut predicted images to the range of images by a threshold, and have no clip_sample.
CLIPPING_BY_THRESHOLD = ("dpmsolver++", "unipc")

# mindone has no formula for these with prediction_type sample.
WITHOUT_SAMPLE_PREDICTION = ("euler_ancestral", "pndm")


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is for models of flow matching, on the path ``x = (1 - sigma) x0 + sigma noise``."""
    return "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("prediction_type") == "flow_prediction"


def prediction_type(scheduler: Any) -> str:
    """What a network predicts that was trained with this scheduler."""
    return "flow_prediction" if is_flow(scheduler) else scheduler.config.prediction_type


def flow_shift(scheduler: Any) -> float:
    """The shift of a flow matching scheduler's noise levels."""
    return float(scheduler.config.get("shift", scheduler.config.get("flow_shift", 1.0)))


def make_sampler(
    name: str, scheduler: Any, clip_sample: bool | None = None, timestep_spacing: str | None = None
) -> Any:
    """A sampler on the noise levels of ``scheduler``.

    Args:
        name: a key of ``SCHEDULERS``; for a model of flow matching, of ``FLOW_SCHEDULERS``.
        scheduler: any scheduler of mindone.
        clip_sample: whether predicted images are cut to [-1, 1]; a setting of ``CLIPPING_SAMPLERS``.
        timestep_spacing: how the steps lie among the noise levels. None, for both: as ``scheduler`` has it.

    Raises:
        ConfigError: it does not support the model's prediction type.
    """
    given: dict[str, Any] = {"clip_sample": clip_sample, "timestep_spacing": timestep_spacing}
    changes = {key: value for key, value in given.items() if value is not None}
    if is_flow(scheduler):
        return _checked(name, lambda: _make_flow_sampler(name, scheduler, changes))
    if name in WITHOUT_SAMPLE_PREDICTION and scheduler.config.prediction_type == "sample":
        raise ConfigError(f"--scheduler {name}: cannot use a model that predicts the sample; use ddim or dpmsolver++")
    if name == "dpmsolver++":
        changes["algorithm_type"] = "dpmsolver++"
    if name in CLIPPING_BY_THRESHOLD:
        changes |= _threshold(scheduler.config, changes.pop("clip_sample", None))
    return _checked(name, lambda: SCHEDULERS[name].from_config(scheduler.config, **changes))


def _threshold(config: Any, clip_sample: bool | None) -> dict[str, Any]:
    """Clipping, for samplers that know it as a threshold. Without it, errors of the first steps become white areas."""
    is_range_known = config.get("clip_sample_range", 1.0) == 1.0  # a threshold scales what it cuts: to 1
    if clip_sample is None and (not config.get("clip_sample", False) or not is_range_known):
        return {}  # a threshold of its own stays
    return {"thresholding": clip_sample is not False, "sample_max_value": 1.0}


def _checked(name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` makes of settings that may be a stranger's. Raises ConfigError where they do not go together."""
    try:
        with lazy_imports():  # mindone imports every scheduler, to see which could take each other's settings
            return make()
    except ConfigError:
        raise
    except Exception as error:  # mindone raises many kinds for settings that do not go together
        raise ConfigError(f"--scheduler {name}: cannot have this model's noise levels ({first_line(error)})") from error


def set_timesteps(scheduler: Any, num_steps: int) -> None:
    """Set a sampler's timesteps. Raises ConfigError where its settings, perhaps a stranger's, do not allow that."""
    try:
        scheduler.set_timesteps(num_steps)
    except Exception as error:  # as in _checked
        raise ConfigError(
            f"--num_inference_steps {num_steps}: the sampler {sampler_name(scheduler)} cannot take so many steps with "
            f"this model's noise levels ({first_line(error)})"
        ) from error


def sampler_for(scheduler: Any, num_steps: int | None) -> tuple[Any, int]:
    """A sampler and its number of steps: ``scheduler`` itself, or without ``num_steps`` a fast one."""
    if num_steps is not None:
        return scheduler, num_steps
    return make_sampler(FAST_SAMPLER, scheduler), min(FAST_STEPS, scheduler.config.num_train_timesteps)


def metrics_sampler(scheduler: Any) -> str:
    """The name of the sampler with which metrics are measured when none is named."""
    return FAST_SAMPLER if is_flow(scheduler) else "ddim"


def _make_flow_sampler(name: str, scheduler: Any, changes: dict[str, Any]) -> Any:
    if name not in FLOW_SCHEDULERS:
        raise ConfigError(
            f"--scheduler {name}: is not for a model of flow matching; use {' or '.join(FLOW_SCHEDULERS)}"
        )
    if changes:
        flags = " ".join(f"--{flag}" for flag in changes)
        raise ConfigError(f"{flags}: a model of flow matching has no such setting")
    shift = flow_shift(scheduler)
    num = scheduler.config.num_train_timesteps
    if name in ("euler", "heun"):
        return FLOW_SCHEDULERS[name](num_train_timesteps=num, shift=shift)
    return FLOW_SCHEDULERS[name](
        num_train_timesteps=num, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def sampler_name(scheduler: Any) -> str:
    """The key in ``SCHEDULERS`` or ``FLOW_SCHEDULERS`` of a scheduler's class, or the name of the class."""
    known = [*SCHEDULERS.items(), *FLOW_SCHEDULERS.items()]
    return next((name for name, kind in known if type(scheduler) is kind), type(scheduler).__name__)

"""Samplers: schedulers of mindone by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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


# Their steps only compute with the timestep and index tables with it, so that a plain number will do.
TAKES_NUMBER = ("ddpm", "ddim")


@contextlib.contextmanager
def timesteps_on_host(scheduler: Any, timesteps: Sequence[float]) -> Iterator[bool]:
    """Whether a scheduler's ``step`` may be given numbers inside, for which it reads nothing from the device.

    With a tensor, ``if timestep > 0`` waits for the device in every step. A DDPMScheduler also searches for the
    timestep in a tensor; inside, it looks it up in ``timesteps``, which are all of the scheduler's or its last ones.
    """
    takes_number = sampler_name(scheduler) in TAKES_NUMBER
    following = dict(zip(timesteps, [*timesteps[1:], -1], strict=True))
    if takes_number and hasattr(scheduler, "previous_timestep"):
        scheduler.previous_timestep = following.__getitem__
    try:
        yield takes_number
    finally:
        vars(scheduler).pop("previous_timestep", None)

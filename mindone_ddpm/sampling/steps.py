"""Denoising steps with the numbers of each step computed beforehand, on the host.

A step of a sampler is a sum of tensors times numbers that depend on the noise levels alone. mindone's schedulers
compute those numbers on the device in every step, by up to sixty launches; here a step takes one to eleven.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from mindone_ddpm.sampling.plans import StepPlan, plan_steps


class Steps(Protocol):
    """The steps of a sampler, in order; ``number`` counts them from 0."""

    def model_input(self, images: ms.Tensor, number: int) -> ms.Tensor:
        """What the network is given for noisy images."""

    def step(self, output: ms.Tensor, images: ms.Tensor, number: int, rngs: list[np.random.Generator]) -> ms.Tensor:
        """The less noisy images, from the network's output."""


class PlannedSteps:
    """See :class:`Steps`. The steps that :func:`~mindone_ddpm.sampling.plans.plan_steps` has found."""

    def __init__(self, plan: Sequence[StepPlan]):
        self.plan = plan
        self.kept: dict[str, ms.Tensor] = {}

    def model_input(self, images: ms.Tensor, number: int) -> ms.Tensor:
        scale = self.plan[number].input_scale
        return images if scale == 1.0 else images * scale

    def step(self, output: ms.Tensor, images: ms.Tensor, number: int, rngs: list[np.random.Generator]) -> ms.Tensor:
        plan = self.plan[number]
        tensors = {**self.kept, "images": images, "output": output.astype(ms.float32)}
        for name, terms, clip in plan.sums:
            if terms.get("noise"):
                tensors["noise"] = draw_noise(rngs, images.shape)
            tensors[name] = weighted_sum(tensors, terms)
            if clip is not None:
                tensors[name] = ops.clamp(tensors[name], -clip, clip)
        self.kept = {name: tensors[name] for name in plan.keeps}
        return tensors["images"]


def weighted_sum(tensors: Mapping[str, ms.Tensor], terms: Mapping[str, float]) -> ms.Tensor:
    """The sum of tensors times numbers, without those times 0: one launch for each, none for one tensor times 1."""
    (first, factor), *others = [(name, factor) for name, factor in terms.items() if factor != 0.0]
    total = tensors[first] if factor == 1.0 else tensors[first] * factor
    for name, factor in others:
        total = mint.sub(total, tensors[name], alpha=-factor)  # mint.add with a factor has no kernel for GPUs
    return total


def draw_noise(rngs: list[np.random.Generator], shape: Sequence[int]) -> ms.Tensor:
    """Normal noise, float32 of ``shape``: one image from each generator, as mindone's schedulers draw it."""
    return ms.Tensor(np.concatenate([rng.standard_normal((1, *shape[1:])) for rng in rngs]).astype(np.float32))


class SchedulerSteps:
    """See :class:`Steps`. mindone's own, for samplers and settings that have no plan."""

    def __init__(self, scheduler: Any, timesteps: Sequence[float], eta: float | None):
        self.scheduler = scheduler
        self.timesteps = [ms.Tensor(timestep) for timestep in timesteps]
        known = inspect.signature(scheduler.step).parameters
        self.takes_generator = "generator" in known
        self.options = {"eta": eta} if "eta" in known and eta is not None else {}

    def model_input(self, images: ms.Tensor, number: int) -> ms.Tensor:
        scale = getattr(self.scheduler, "scale_model_input", None)  # those of flow matching have none
        return images if scale is None else scale(images, self.timesteps[number])

    def step(self, output: ms.Tensor, images: ms.Tensor, number: int, rngs: list[np.random.Generator]) -> ms.Tensor:
        options = {**self.options, **({"generator": rngs} if self.takes_generator else {})}
        return self.scheduler.step(output, self.timesteps[number], images, **options)[0].astype(ms.float32)


def make_steps(scheduler: Any, timesteps: Sequence[float], eta: float | None = None) -> Steps:
    """The steps of a scheduler whose timesteps are set.

    Args:
        timesteps: all of the scheduler's, or its last ones.
        eta: of a DDIMScheduler.
    """
    plan = plan_steps(scheduler, timesteps, eta or 0.0)
    return SchedulerSteps(scheduler, timesteps, eta) if plan is None else PlannedSteps(plan)


def initial_deviation(scheduler: Any) -> float:
    """The deviation of the noise that sampling begins with; those of flow matching do not say it, it is 1."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


class PipelineScheduler:
    """A scheduler for mindone's text-to-image pipelines, whose own loop calls it, with these steps."""

    def __init__(self, scheduler: Any, eta: float | None = None):
        self.scheduler = scheduler
        self.eta = eta
        self.config = scheduler.config
        self.order = scheduler.order
        self.init_noise_sigma = initial_deviation(scheduler)
        self.timesteps: list[ms.Tensor] = []

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps.asnumpy().tolist()
        # Tensors of the host: one of the device would be cut by a launch in each step.
        self.timesteps = [ms.Tensor(t, ms.int32 if isinstance(t, int) else ms.float32) for t in timesteps]
        self.steps = make_steps(self.scheduler, timesteps, self.eta)
        self.number = 0
        self.init_noise_sigma = initial_deviation(self.scheduler)

    def scale_model_input(self, images: ms.Tensor, timestep: ms.Tensor) -> ms.Tensor:
        return self.steps.model_input(images, self.number)

    def step(
        self,
        output: ms.Tensor,
        timestep: ms.Tensor,
        images: ms.Tensor,
        generator: list[np.random.Generator],
        return_dict: bool = False,
    ) -> tuple[ms.Tensor]:
        images = self.steps.step(output, images, self.number, generator)
        self.number += 1
        return (images,)

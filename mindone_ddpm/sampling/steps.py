"""Denoising steps with the numbers of each step computed beforehand, on the host.

A step of most samplers is a sum of tensors times numbers that depend on the noise levels alone. mindone's schedulers
compute those numbers on the device in every step, by up to sixty launches; here a step takes four to nine.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from mindone_ddpm.models.schedulers import sampler_name

Table = np.ndarray  # float64


class Steps(Protocol):
    """The steps of a sampler, in order; ``number`` counts them from 0."""

    def model_input(self, images: ms.Tensor, number: int) -> ms.Tensor:
        """What the network is given for noisy images."""

    def step(self, output: ms.Tensor, images: ms.Tensor, number: int, rngs: list[np.random.Generator]) -> ms.Tensor:
        """The less noisy images, from the network's output."""


@dataclass(frozen=True)
class StepNumbers:
    """One step. All tensors are float32 of shape (batch, channels, height, width).

    The predicted image is ``x0_images * images + x0_output * output``, cut to ``[-clip, clip]``. The next images are
    ``images_share * images + output_share * output + x0_share * x0 + kept_share * kept + noise_share * noise``.

    Attributes:
        input_scale: of the images, for the network.
        clip: None: the predicted image is not cut.
        keeps_x0: whether ``kept`` is the predicted image of the step before, not the images before it.
    """

    x0_images: float
    x0_output: float
    images_share: float = 0.0
    output_share: float = 0.0
    x0_share: float = 0.0
    kept_share: float = 0.0
    noise_share: float = 0.0
    input_scale: float = 1.0
    clip: float | None = None
    keeps_x0: bool = False


class PlannedSteps:
    """See :class:`Steps`. The steps that :func:`plan_steps` has found."""

    def __init__(self, plan: Sequence[StepNumbers]):
        self.plan = plan
        self.kept: ms.Tensor | None = None

    def model_input(self, images: ms.Tensor, number: int) -> ms.Tensor:
        scale = self.plan[number].input_scale
        return images if scale == 1.0 else images * scale

    def step(self, output: ms.Tensor, images: ms.Tensor, number: int, rngs: list[np.random.Generator]) -> ms.Tensor:
        numbers = self.plan[number]
        output = output.astype(ms.float32)
        x0 = None
        if numbers.x0_share or numbers.keeps_x0:
            x0 = weighted_sum((numbers.x0_images, images), (numbers.x0_output, output))
            if numbers.clip is not None:
                x0 = ops.clamp(x0, -numbers.clip, numbers.clip)
        terms = [(numbers.images_share, images), (numbers.output_share, output)]
        terms += [(numbers.x0_share, x0), (numbers.kept_share, self.kept)]
        if numbers.noise_share:
            terms.append((numbers.noise_share, draw_noise(rngs, images.shape)))
        self.kept = x0 if numbers.keeps_x0 else images
        return weighted_sum(*terms)


def weighted_sum(*terms: tuple[float, ms.Tensor | None]) -> ms.Tensor:
    """The sum of tensors times numbers, without those times 0: one launch for each."""
    (factor, total), *others = [(factor, tensor) for factor, tensor in terms if tensor is not None and factor != 0.0]
    if factor != 1.0:
        total = total * factor
    for factor, tensor in others:
        total = mint.sub(total, tensor, alpha=-factor)  # mint.add with a factor has no kernel for GPUs
    return total


def draw_noise(rngs: list[np.random.Generator], shape: Sequence[int]) -> ms.Tensor:
    """Normal noise, float32 of ``shape``: one image from each generator, as mindone's schedulers draw it."""
    return ms.Tensor(np.concatenate([rng.standard_normal((1, *shape[1:])) for rng in rngs]).astype(np.float32))


class SchedulerSteps:
    """See :class:`Steps`. mindone's own, for samplers whose steps are no such sums."""

    def __init__(self, scheduler: Any, timesteps: Sequence[float], eta: float | None):
        self.scheduler = scheduler
        self.timesteps = [ms.Tensor(timestep) for timestep in timesteps]
        known = inspect.signature(scheduler.step).parameters
        self.takes_generator = "generator" in known
        self.options = {"eta": eta} if "eta" in known and eta is not None else {}

    def model_input(self, images: ms.Tensor, number: int) -> ms.Tensor:
        return self.scheduler.scale_model_input(images, self.timesteps[number])

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


def plan_steps(scheduler: Any, timesteps: Sequence[float], eta: float = 0.0) -> list[StepNumbers] | None:
    """The numbers of each step, by the formulas of mindone's scheduler; None if they are not known for its settings.

    Arguments as in :func:`make_steps`.
    """
    find = PLANNERS.get(sampler_name(scheduler))
    if find is None or getattr(scheduler.config, "thresholding", False):
        return None
    return find(scheduler, timesteps, eta)


def _prediction(kind: str, alpha: float, sigma: float) -> tuple[float, float]:
    """``(p, q)`` with ``x0 = p x + q output`` for noisy images ``x = alpha x0 + sigma noise``."""
    if kind == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    if kind == "v_prediction":
        return alpha, -sigma
    return 0.0, 1.0


def _noise_prediction(kind: str, alpha: float, sigma: float) -> tuple[float, float]:
    """``(p, q)`` with ``noise = p x + q output``."""
    if kind == "epsilon":
        return 0.0, 1.0
    if kind == "v_prediction":
        return sigma, alpha
    return 1.0 / sigma, -alpha / sigma


def _clip(config: Any) -> float | None:
    return float(config.clip_sample_range) if config.clip_sample else None


def _ddpm(scheduler: Any, timesteps: Sequence[float], eta: float) -> list[StepNumbers] | None:
    """Ho et al. 2020, equations 6 and 7."""
    config = scheduler.config
    if config.variance_type not in ("fixed_small", "fixed_small_log", "fixed_large"):
        return None
    products = scheduler.alphas_cumprod.asnumpy().astype(np.float64)
    plan = []
    for timestep, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        product, after = products[timestep], products[following] if following >= 0 else 1.0
        beta = 1.0 - product / after
        variance = max((1.0 - after) / (1.0 - product) * beta, 1e-20)
        if config.variance_type == "fixed_large":
            variance = beta
        plan.append(
            StepNumbers(
                *_prediction(config.prediction_type, np.sqrt(product), np.sqrt(1.0 - product)),
                images_share=np.sqrt(product / after) * (1.0 - after) / (1.0 - product),
                x0_share=np.sqrt(after) * beta / (1.0 - product),
                noise_share=np.sqrt(variance) if timestep > 0 else 0.0,
                clip=_clip(config),
            )
        )
    return plan


def _ddim(scheduler: Any, timesteps: Sequence[float], eta: float) -> list[StepNumbers]:
    """Song et al. 2021, equations 12 and 16."""
    config = scheduler.config
    products = scheduler.alphas_cumprod.asnumpy().astype(np.float64)
    stride = config.num_train_timesteps // scheduler.num_inference_steps
    plan = []
    for timestep in timesteps:
        following = timestep - stride
        product = products[timestep]
        after = products[following] if following >= 0 else float(scheduler.final_alpha_cumprod)
        deviation = eta * np.sqrt((1.0 - after) / (1.0 - product) * (1.0 - product / after))
        direction = np.sqrt(1.0 - after - deviation**2)
        of_images, of_output = _noise_prediction(config.prediction_type, np.sqrt(product), np.sqrt(1.0 - product))
        plan.append(
            StepNumbers(
                *_prediction(config.prediction_type, np.sqrt(product), np.sqrt(1.0 - product)),
                images_share=direction * of_images,
                output_share=direction * of_output,
                x0_share=np.sqrt(after),
                noise_share=deviation,
                clip=_clip(config),
            )
        )
    return plan


def _levels(scheduler: Any, timesteps: Sequence[float]) -> Table:
    """The noise levels (Karras et al. 2022) before each step, and after the last."""
    return scheduler.sigmas.asnumpy().astype(np.float64)[-len(timesteps) - 1 :]


def _dpmsolver(scheduler: Any, timesteps: Sequence[float], eta: float) -> list[StepNumbers] | None:
    """DPM-Solver++ in data prediction (Lu et al. 2022, algorithm 2), of order 1 or 2 with the midpoint formula."""
    config = scheduler.config
    is_known = config.algorithm_type == "dpmsolver++" and config.solver_type == "midpoint"
    if not is_known or config.solver_order > 2 or getattr(config, "use_flow_sigmas", False):
        return None
    sigmas, last = _levels(scheduler, timesteps), len(timesteps) - 1
    alphas = 1.0 / np.sqrt(sigmas**2 + 1.0)
    deviations = sigmas * alphas
    with np.errstate(divide="ignore"):
        log_ratios = -np.log(sigmas)  # half the logarithm of the signal-to-noise ratio
    few = config.lower_order_final and len(scheduler.timesteps) < 15
    is_plain_at_end = config.euler_at_final or few or config.final_sigmas_type == "zero"
    plan = []
    for i in range(len(timesteps)):
        shrink = deviations[i + 1] / deviations[i]
        gain = alphas[i + 1] - shrink * alphas[i]
        kept = 0.0
        if i > 0 and config.solver_order == 2 and not (i == last and is_plain_at_end):
            ratio = (log_ratios[i] - log_ratios[i - 1]) / (log_ratios[i + 1] - log_ratios[i])
            kept = -0.5 * gain / ratio
        plan.append(
            StepNumbers(
                *_prediction(config.prediction_type, alphas[i], deviations[i]),
                images_share=shrink,
                x0_share=gain - kept,
                kept_share=kept,
                keeps_x0=True,
            )
        )
    return plan


def _unscaled(kind: str, sigma: float) -> tuple[float, float]:
    """``(p, q)`` with ``x0 = p x + q output`` for noisy images ``x = x0 + sigma noise``."""
    scale = np.sqrt(sigma**2 + 1.0)
    of_images, of_output = _prediction(kind, 1.0 / scale, sigma / scale)
    return of_images / scale, of_output


def _along(kind: str, sigma: float, ratio: float, **others: Any) -> StepNumbers:
    """From ``x`` to ``ratio x + (1 - ratio) x0``, without the predicted image in between."""
    of_images, of_output = _unscaled(kind, sigma)
    return StepNumbers(
        of_images,
        of_output,
        images_share=ratio + (1.0 - ratio) * of_images,
        output_share=(1.0 - ratio) * of_output,
        input_scale=1.0 / np.sqrt(sigma**2 + 1.0),
        **others,
    )


def _euler(scheduler: Any, timesteps: Sequence[float], eta: float) -> list[StepNumbers]:
    """Karras et al. 2022, algorithm 2 without its noise and correction."""
    sigmas = _levels(scheduler, timesteps)
    kind = scheduler.config.prediction_type
    return [_along(kind, now, after / now) for now, after in itertools.pairwise(sigmas)]


def _euler_ancestral(scheduler: Any, timesteps: Sequence[float], eta: float) -> list[StepNumbers]:
    """A step to less noise than the next level has, and noise up to it."""
    sigmas = _levels(scheduler, timesteps)
    plan = []
    for now, after in itertools.pairwise(sigmas):
        added = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        down = np.sqrt(after**2 - added**2)
        plan.append(_along(scheduler.config.prediction_type, now, down / now, noise_share=added))
    return plan


def _heun(scheduler: Any, timesteps: Sequence[float], eta: float) -> list[StepNumbers] | None:
    """Karras et al. 2022, algorithm 1. Each level but the first comes twice: after a step, and after its correction.

    With ``s`` the images before the step and ``x`` those after it, the corrected ones are
    ``(s + x) / 2 + (after - now) (x - x0) / (2 after)``.
    """
    if (len(scheduler.timesteps) - len(timesteps)) % 2:  # it begins with a correction
        return None
    config = scheduler.config
    sigmas = _levels(scheduler, timesteps)
    plan = []
    for i in range(len(timesteps)):
        now, after = sigmas[i - i % 2], sigmas[i - i % 2 + 1]
        if i % 2 == 0:
            level, shares = now, {"images_share": after / now, "x0_share": 1.0 - after / now}
        else:
            share = (after - now) / (2.0 * after)
            level, shares = after, {"images_share": 0.5 + share, "x0_share": -share, "kept_share": 0.5}
        predicted = _unscaled(config.prediction_type, level)
        scale = 1.0 / np.sqrt(level**2 + 1.0)
        plan.append(StepNumbers(*predicted, **shares, input_scale=scale, clip=_clip(config)))
    return plan


Planner = Callable[[Any, Sequence[float], float], "list[StepNumbers] | None"]
PLANNERS: dict[str, Planner] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpmsolver++": _dpmsolver,
    "euler": _euler,
    "euler_ancestral": _euler_ancestral,
    "heun": _heun,
}

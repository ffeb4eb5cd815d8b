"""The numbers of every step of a sampler, by the formulas of mindone's schedulers.

Noisy images are ``x = alpha x0 + sigma noise``. A plan says which weighted sums of tensors make the next images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mindone_ddpm.models.schedulers import CLIPPING_BY_THRESHOLD, sampler_name

Table = np.ndarray  # float64


class Sum(NamedTuple):
    """``name`` becomes the sum of named tensors times numbers, cut to ``[-clip, clip]`` unless that is None.

    Known names: ``images`` (noisy; assigned last, the next ones), ``output`` of the network, ``noise`` (drawn), those
    assigned before, and those kept by the step before.
    """

    name: str
    terms: dict[str, float]
    clip: float | None = None


class StepPlan(NamedTuple):
    """One step: ``input_scale`` is of the images, for the network; ``keeps`` names what the next step uses."""

    sums: tuple[Sum, ...]
    input_scale: float = 1.0
    keeps: tuple[str, ...] = ()


Plan = list[StepPlan]


def plan_steps(scheduler: Any, timesteps: Sequence[float], eta: float = 0.0) -> Plan | None:
    """The numbers of each step; None if they are not known for the scheduler's settings.

    Arguments as in :func:`~mindone_ddpm.sampling.steps.make_steps`.
    """
    find = PLANNERS.get(type(scheduler).__name__, PLANNERS.get(sampler_name(scheduler)))
    if find is None or (scheduler.config.get("thresholding", False) and not _is_plain_threshold(scheduler)):
        return None
    return find(scheduler, timesteps, eta)


def _x0(kind: str, alpha: float, sigma: float) -> dict[str, float]:
    """The predicted image, from noisy images and the network's output."""
    if kind == "epsilon":
        return {"images": 1.0 / alpha, "output": -sigma / alpha}
    if kind == "v_prediction":
        return {"images": alpha, "output": -sigma}
    if kind == "flow_prediction":  # the output is noise - x0, and alpha + sigma is 1
        return {"images": 1.0, "output": -sigma}
    return {"output": 1.0}


def _noise(kind: str, alpha: float, sigma: float) -> dict[str, float]:
    """The predicted noise."""
    if kind == "epsilon":
        return {"output": 1.0}
    if kind == "v_prediction":
        return {"images": sigma, "output": alpha}
    return {"images": 1.0 / sigma, "output": -alpha / sigma}


def _combined(*parts: tuple[float, dict[str, float]]) -> dict[str, float]:
    """A sum of sums."""
    total: dict[str, float] = {}
    for factor, terms in parts:
        for name, share in terms.items():
            total[name] = total.get(name, 0.0) + factor * share
    return total


def _is_plain_threshold(scheduler: Any) -> bool:
    """Whether a threshold (Saharia et al. 2022, section 2.3) cannot exceed 1, so that it only cuts."""
    return sampler_name(scheduler) in CLIPPING_BY_THRESHOLD and scheduler.config.sample_max_value == 1.0


def _threshold(config: Any) -> float | None:
    return 1.0 if config.thresholding else None


def _clip(config: Any) -> float | None:
    return float(config.clip_sample_range) if config.clip_sample else None


def _ddpm(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
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
        images = {
            "images": np.sqrt(product / after) * (1.0 - after) / (1.0 - product),
            "x0": np.sqrt(after) * beta / (1.0 - product),
            "noise": np.sqrt(variance) if timestep > 0 else 0.0,
        }
        x0 = _x0(config.prediction_type, np.sqrt(product), np.sqrt(1.0 - product))
        plan.append(StepPlan((Sum("x0", x0, _clip(config)), Sum("images", images))))
    return plan


def _ddim(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan:
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
        levels = np.sqrt(product), np.sqrt(1.0 - product)
        images = _combined(
            (direction, _noise(config.prediction_type, *levels)),
            (1.0, {"x0": np.sqrt(after), "noise": deviation}),
        )
        plan.append(StepPlan((Sum("x0", _x0(config.prediction_type, *levels), _clip(config)), Sum("images", images))))
    return plan


def _levels(scheduler: Any, timesteps: Sequence[float]) -> Table:
    """The noise levels (Karras et al. 2022) before each step, and after the last."""
    return scheduler.sigmas.asnumpy().astype(np.float64)[-len(timesteps) - 1 :]


class _Path(NamedTuple):
    """alpha, sigma and half the logarithm of the signal-to-noise ratio, before each step and after the last."""

    alphas: Table
    sigmas: Table
    log_ratios: Table

    @classmethod
    def of(cls, scheduler: Any, timesteps: Sequence[float]) -> _Path:
        levels = _levels(scheduler, timesteps)
        if scheduler.config.use_flow_sigmas:
            alphas, sigmas = 1.0 - levels, levels
        else:
            alphas = 1.0 / np.sqrt(levels**2 + 1.0)
            sigmas = levels * alphas
        with np.errstate(divide="ignore"):
            return cls(alphas, sigmas, np.log(alphas) - np.log(sigmas))


def _dpmsolver(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
    """DPM-Solver++ in data prediction (Lu et al. 2022, algorithm 2), of order 1 or 2 with the midpoint formula."""
    config = scheduler.config
    is_known = config.algorithm_type == "dpmsolver++" and config.solver_type == "midpoint"
    if not is_known or config.solver_order > 2:
        return None
    alphas, sigmas, log_ratios = _Path.of(scheduler, timesteps)
    last = len(timesteps) - 1
    few = config.lower_order_final and len(scheduler.timesteps) < 15
    is_plain_at_end = config.euler_at_final or few or config.final_sigmas_type == "zero"
    plan = []
    for i in range(len(timesteps)):
        shrink = sigmas[i + 1] / sigmas[i]
        gain = alphas[i + 1] - shrink * alphas[i]
        before = 0.0
        if i > 0 and config.solver_order == 2 and not (i == last and is_plain_at_end):
            ratio = (log_ratios[i] - log_ratios[i - 1]) / (log_ratios[i + 1] - log_ratios[i])
            before = -0.5 * gain / ratio
        images = {"images": shrink, "x0": gain - before, "x0 before": before}
        x0 = _x0(config.prediction_type, alphas[i], sigmas[i])
        sums = (Sum("x0", x0, _threshold(config)), Sum("images", images))
        plan.append(StepPlan((*sums, Sum("x0 before", {"x0": 1.0})), keeps=("x0 before",)))
    return plan


def _unipc(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
    """UniPC with the function B(h) (Zhao et al. 2023, algorithms 5 and 6), in data prediction.

    Each step first corrects the images that the step before had predicted, then predicts the next.
    """
    config = scheduler.config
    if not config.predict_x0 or config.solver_p is not None:
        return None
    path = _Path.of(scheduler, timesteps)
    skipped = len(scheduler.timesteps) - len(timesteps)
    names = ["x0", *(f"x0 {before} before" for before in range(1, config.solver_order + 1))]
    plan, order = [], 0
    for i in range(len(timesteps)):
        sums = [Sum("x0", _x0(config.prediction_type, path.alphas[i], path.sigmas[i]), _threshold(config))]
        if i > 0 and i + skipped - 1 not in config.disable_corrector:
            terms = _unipc_terms(config.solver_type, path, i - 1, order, ["corrected", *names[1:]], names[0])
            sums.append(Sum("corrected", terms))
        else:
            sums.append(Sum("corrected", {"images": 1.0}))
        left = len(timesteps) - i if config.lower_order_final else config.solver_order
        order = min(config.solver_order, left, i + 1)
        sums.append(Sum("images", _unipc_terms(config.solver_type, path, i, order, ["corrected", *names])))
        kept = names[1 : min(config.solver_order, i + 1) + 1]
        sums += [Sum(name, {source: 1.0}) for name, source in reversed(list(zip(kept, names, strict=False)))]
        plan.append(StepPlan(tuple(sums), keeps=("corrected", *kept)))
    is_whole = all(np.isfinite(share) for step in plan for part in step.sums for share in part.terms.values())
    return plan if is_whole else None


def _unipc_terms(
    solver_type: str, path: _Path, i: int, order: int, names: list[str], corrects_with: str | None = None
) -> dict[str, float]:
    """The images after step ``i``, of a corrector where the prediction after the step is known (``corrects_with``).

    Args:
        names: of the images before the step, and of the predictions at it, one before it, ...
    """
    start, *predictions = names
    h = path.log_ratios[i + 1] - path.log_ratios[i]
    phi = np.expm1(-h)
    base = -h if solver_type == "bh1" else phi
    ratios = [(path.log_ratios[i - k] - path.log_ratios[i]) / h for k in range(1, order)]
    places = np.array([*ratios, 1.0])
    right, next_phi, factorial = [], phi / -h - 1.0, 1
    for k in range(1, order + 1):
        right.append(next_phi * factorial / base)
        factorial *= k + 1
        next_phi = next_phi / -h - 1.0 / factorial
    powers = np.stack([places**k for k in range(order)])
    if corrects_with is not None:
        shares = np.linalg.solve(powers, np.array(right)) if order > 1 else np.array([0.5])
    elif order == 2:
        shares = np.array([0.5])
    else:
        shares = np.linalg.solve(powers[:-1, :-1], np.array(right[:-1])) if order > 2 else np.zeros(0)
    alpha = path.alphas[i + 1]
    terms = {start: path.sigmas[i + 1] / path.sigmas[i], predictions[0]: -alpha * phi}
    differences = [(name, share / ratio) for name, share, ratio in zip(predictions[1:], shares, ratios, strict=False)]
    if corrects_with is not None:
        differences.append((corrects_with, shares[-1]))
    for name, share in differences:
        terms[name] = terms.get(name, 0.0) - alpha * base * share
        terms[predictions[0]] += alpha * base * share
    return terms


def _unscaled(kind: str, sigma: float) -> dict[str, float]:
    """The predicted image, from noisy images ``x0 + sigma noise``."""
    scale = np.sqrt(sigma**2 + 1.0)
    terms = _x0(kind, 1.0 / scale, sigma / scale)
    return {"images": terms.get("images", 0.0) / scale, "output": terms["output"]}


def _along(kind: str, sigma: float, ratio: float, noise: float = 0.0) -> StepPlan:
    """From ``x`` to ``ratio x + (1 - ratio) x0 + noise``, without the predicted image in between."""
    terms = _combined((1.0 - ratio, _unscaled(kind, sigma)), (1.0, {"images": ratio, "noise": noise}))
    return StepPlan((Sum("images", terms),), 1.0 / np.sqrt(sigma**2 + 1.0))


def _euler(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan:
    """Karras et al. 2022, algorithm 2 without its noise and correction."""
    kind = scheduler.config.prediction_type
    return [_along(kind, now, after / now) for now, after in itertools.pairwise(_levels(scheduler, timesteps))]


def _euler_ancestral(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan:
    """A step to less noise than the next level has, and noise up to it."""
    plan = []
    for now, after in itertools.pairwise(_levels(scheduler, timesteps)):
        added = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        down = np.sqrt(after**2 - added**2)
        plan.append(_along(scheduler.config.prediction_type, now, down / now, added))
    return plan


def _heun(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
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
            level, images = now, {"images": after / now, "x0": 1.0 - after / now}
        else:
            share = (after - now) / (2.0 * after)
            level, images = after, {"images": 0.5 + share, "x0": -share, "start": 0.5}
        sums = [Sum("x0", _unscaled(config.prediction_type, level), _clip(config))]
        sums += [Sum("start", {"images": 1.0})] if i % 2 == 0 else []
        plan.append(StepPlan((*sums, Sum("images", images)), 1.0 / np.sqrt(level**2 + 1.0), ("start",)))
    return plan


def _flow_euler(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
    """Along the straight path, whose direction the network predicts (Liu et al. 2023, algorithm 1)."""
    if scheduler.config.stochastic_sampling or scheduler.config.invert_sigmas:
        return None
    levels = itertools.pairwise(_levels(scheduler, timesteps))
    return [StepPlan((Sum("images", {"images": 1.0, "output": after - now}),)) for now, after in levels]


def _flow_heun(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
    """A step, then the same again with the mean of the directions at both of its ends."""
    if (len(scheduler.timesteps) - len(timesteps)) % 2:  # it begins with a correction
        return None
    sigmas = _levels(scheduler, timesteps)
    plan = []
    for i in range(len(timesteps)):
        length = sigmas[i - i % 2 + 1] - sigmas[i - i % 2]
        if i % 2 == 0:
            kept = (Sum("start", {"images": 1.0}), Sum("first", {"output": 1.0}))
            plan.append(StepPlan((*kept, Sum("images", {"images": 1.0, "output": length})), keeps=("start", "first")))
        else:
            images = {"start": 1.0, "first": 0.5 * length, "output": 0.5 * length}
            plan.append(StepPlan((Sum("images", images),)))
    return plan


def _pndm(scheduler: Any, timesteps: Sequence[float], eta: float) -> Plan | None:
    """Liu et al. 2022, "Pseudo numerical methods", algorithm 2; with its Runge-Kutta steps or without."""
    config = scheduler.config
    if len(timesteps) != len(scheduler.timesteps) or scheduler.num_inference_steps < 4:
        return None
    stride = config.num_train_timesteps // scheduler.num_inference_steps
    num_runge_kutta = len(scheduler.prk_timesteps)
    plan = [
        _pndm_runge_kutta(scheduler, i, int(timestep), stride) for i, timestep in enumerate(timesteps[:num_runge_kutta])
    ]
    for i, timestep in enumerate(timesteps[num_runge_kutta:]):
        plan.append(_pndm_multistep(scheduler, i, int(timestep), stride, 3 if num_runge_kutta else 0))
    return plan


# Names of the outputs one, two and three steps before.
_EARLIER = ("output 1", "output 2", "output 3")
_KEEP_OUTPUTS = (
    Sum("output 3", {"output 2": 1.0}),
    Sum("output 2", {"output 1": 1.0}),
    Sum("output 1", {"output": 1.0}),
)


def _pndm_runge_kutta(scheduler: Any, i: int, timestep: int, stride: int) -> StepPlan:
    """One of the four evaluations of a Runge-Kutta step; only the first counts as an output of the multistep."""
    after = timestep - (0 if i % 2 else stride // 2)
    now = int(scheduler.prk_timesteps[i // 4 * 4])
    stage = i % 4
    earlier = _EARLIER[: min(i // 4 + 1, 3)]
    if stage == 0:
        kept = [part for part in _KEEP_OUTPUTS if part.name in earlier]
        sums = [Sum("start", {"images": 1.0}), Sum("mean", {"output": 1.0 / 6.0}), *kept]
    elif stage < 3:
        sums = [Sum("mean", {"mean": 1.0, "output": 1.0 / 3.0})]
    else:
        images = _pndm_images(scheduler, now, after, {"mean": 1.0, "output": 1.0 / 6.0}, "start")
        return StepPlan((Sum("images", images),), keeps=earlier)
    begun = _pndm_images(scheduler, now, after, {"output": 1.0}, "start")
    return StepPlan((*sums, Sum("images", begun)), keeps=("start", "mean", *earlier))


def _pndm_multistep(scheduler: Any, i: int, timestep: int, stride: int, known: int) -> StepPlan:
    """A linear multistep; ``known`` outputs are there before the first. Without them, the second corrects the first."""
    now, after = timestep, timestep - stride
    if not known and i == 1:
        terms = {"output": 0.5, "output 1": 0.5}
        images = _pndm_images(scheduler, timestep + stride, timestep, terms, "start")
        return StepPlan((Sum("images", images),), keeps=("output 1",))
    earlier = min(known + i - (not known and i > 1), 3)
    factors = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))[earlier]
    terms = dict(zip(("output", *_EARLIER), factors, strict=False))
    next_images = Sum("images", _pndm_images(scheduler, now, after, terms, "images"))
    keeps = _EARLIER[: min(earlier + 1, 3)]
    start = () if known or i else (Sum("start", {"images": 1.0}),)
    kept = tuple(part for part in _KEEP_OUTPUTS if part.name in keeps)
    return StepPlan((*start, next_images, *kept), keeps=keeps + (() if known or i else ("start",)))


def _pndm_images(scheduler: Any, now: int, after: int, terms: dict[str, float], start: str) -> dict[str, float]:
    """Equation 11 of the paper, from timestep ``now`` to ``after``."""
    products = scheduler.alphas_cumprod.asnumpy().astype(np.float64)
    product = products[now]
    following = products[after] if after >= 0 else float(scheduler.final_alpha_cumprod)
    if scheduler.config.prediction_type == "v_prediction":
        terms = _combined((np.sqrt(product), terms), (1.0, {start: np.sqrt(1.0 - product)}))
    divisor = product * np.sqrt(1.0 - following) + np.sqrt(product * (1.0 - product) * following)
    return _combined((np.sqrt(following / product), {start: 1.0}), (-(following - product) / divisor, terms))


Planner = Callable[[Any, Sequence[float], float], "Plan | None"]
PLANNERS: dict[str, Planner] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpmsolver++": _dpmsolver,
    "euler": _euler,
    "euler_ancestral": _euler_ancestral,
    "heun": _heun,
    "unipc": _unipc,
    "pndm": _pndm,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": _flow_heun,
}

"""Optimisers and learning-rate schedules as functions of the optimiser step.

All that changes from step to step (learning rate, bias corrections) is computed beforehand on the host in float64
and laid down in a table, one row a step, that the compiled step reads at its own counter. So an overflow, which
leaves the counter where it is, leaves the schedule where it is, and the host need not be asked.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm import kernels
from mindone_ddpm.config import TrainingConfig


def learning_rates(
    schedule: str, peak: float, warmup_steps: int, total_steps: int, num_cycles: float | None = None, power: float = 1.0
) -> np.ndarray:
    """The learning rate of each optimiser step, float64 of shape (total_steps,).

    The formulas are those of the field's published scripts: a linear rise over ``warmup_steps`` (the first step has
    rate 0), then by name, with ``x`` the share of the remaining steps done:

    - ``constant`` (no rise at all), ``constant_with_warmup``;
    - ``linear``: 1 - x;
    - ``cosine``: (1 + cos(2 pi c x)) / 2 with c = 0.5 cycles (Loshchilov & Hutter 2017, equation 5);
    - ``cosine_with_restarts``: (1 + cos(pi (c x mod 1))) / 2 with c = 1 restart;
    - ``polynomial``: from the peak down to 1e-7 as (1 - x)^power.
    """
    steps = np.arange(total_steps, dtype=np.float64)
    rise = steps / max(1, warmup_steps)
    x = (steps - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "constant":
        return np.full(total_steps, peak, dtype=np.float64)
    if schedule == "constant_with_warmup":
        shape = np.ones(total_steps)
    elif schedule == "linear":
        shape = np.maximum(0.0, 1.0 - x)
    elif schedule == "cosine":
        cycles = 0.5 if num_cycles is None else num_cycles
        shape = np.maximum(0.0, 0.5 * (1.0 + np.cos(2.0 * math.pi * cycles * x)))
    elif schedule == "cosine_with_restarts":
        cycles = 1.0 if num_cycles is None else num_cycles
        shape = np.where(x >= 1.0, 0.0, np.maximum(0.0, 0.5 * (1.0 + np.cos(math.pi * ((cycles * x) % 1.0)))))
    elif schedule == "polynomial":
        end = 1e-7
        shape = ((peak - end) * np.maximum(0.0, 1.0 - x) ** power + end) / peak
    else:
        raise ValueError(f"unknown learning-rate schedule {schedule!r}")
    return peak * np.where(steps < warmup_steps, rise, shape)


class AdamW(nn.Cell):
    """Adam with decoupled weight decay, with or without bias correction, that can be told to change nothing.

    Kingma & Ba 2015 (algorithm 1) and Loshchilov & Hutter 2019 (algorithm 2). The bias corrections are folded into
    the learning rate, epsilon and weight decay of each step:
    ``lr m^ / (sqrt(v^) + eps)  =  lr' m / (sqrt(v) + eps')`` with ``lr' = lr sqrt(1 - b2^t) / (1 - b1^t)`` and
    ``eps' = eps sqrt(1 - b2^t)``.

    Args:
        parameters: what is trained, float32.
        bias_correction: without it, this is the tutorial's ``AdamWeightDecay``.
    """

    num_columns = 3

    def __init__(
        self,
        parameters: ms.ParameterTuple,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        bias_correction: bool = True,
    ):
        super().__init__(auto_prefix=False)
        self.parameters = parameters
        self.names = [parameter.name for parameter in parameters]  # cells that hold them will prefix their own
        self.moments1 = parameters.clone(prefix="moments1", init="zeros")
        self.moments2 = parameters.clone(prefix="moments2", init="zeros")
        self.settings = (beta1, beta2, epsilon, weight_decay, bias_correction)
        self.beta1 = ms.Tensor(beta1, ms.float32)
        self.beta2 = ms.Tensor(beta2, ms.float32)
        self.one = ms.Tensor(1.0, ms.float32)
        self.zero = ms.Tensor(0.0, ms.float32)
        self.update = kernels.adam_update()
        self.map = ops.HyperMap()

    def state(self) -> dict[str, ms.Parameter]:
        """The moments, by the name that their parameter had at the beginning."""
        pairs = (("moments1", self.moments1), ("moments2", self.moments2))
        return {f"{kind}.{name}": m for kind, moments in pairs for name, m in zip(self.names, moments, strict=True)}

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """The optimiser's columns of the step table: (lr', eps', decay'), float64 of shape (steps, 3)."""
        beta1, beta2, epsilon, weight_decay, bias_correction = self.settings
        if not bias_correction:
            return np.stack([rates, np.full_like(rates, epsilon), np.full_like(rates, weight_decay)], axis=1)
        t = np.arange(1, len(rates) + 1, dtype=np.float64)
        correction1, correction2 = 1.0 - beta1**t, np.sqrt(1.0 - beta2**t)
        return np.stack(
            [rates * correction2 / correction1, epsilon * correction2, weight_decay * correction1 / correction2], axis=1
        )

    def construct(self, gradients, row, finite):
        """Update the parameters in place by ``gradients`` (float32, like the parameters).

        Where ``finite`` (bool, shape ()) is false, ``gradients`` must be zeros; then the moments and the parameters
        keep their values to the bit: decays of 1 and a learning rate of 0.
        """
        learning_rate = ops.select(finite, row[0], self.zero)
        beta1 = ops.select(finite, self.beta1, self.one)
        beta2 = ops.select(finite, self.beta2, self.one)
        update = ops.partial(self.update, learning_rate, beta1, beta2, row[1], row[2])
        return self.map(update, self.parameters, self.moments1, self.moments2, gradients)


def make_optimizer(config: TrainingConfig, parameters: ms.ParameterTuple) -> Any:
    return AdamW(
        parameters,
        config.adam_beta1,
        config.adam_beta2,
        config.adam_epsilon,
        config.adam_weight_decay,
        bias_correction=config.optimizer == "adamw",
    )

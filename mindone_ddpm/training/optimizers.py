"""Optimisers and learning-rate schedules as functions of the optimiser step.

All that changes from step to step (learning rate, bias corrections) is computed beforehand on the host in float64
and laid down in a table, one row a step, that the compiled step reads at its own counter. So an overflow, which
leaves the counter where it is, leaves the schedule where it is, and the host need not be asked.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm.backends.base import Backend
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.config.values import parse_step_rules


def learning_rates(
    schedule: str,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    num_cycles: float | None = None,
    power: float = 1.0,
    step_rules: str | None = None,
) -> np.ndarray:
    """The learning rate of each optimiser step, float64 of shape (total_steps,).

    The formulas are those of the field's published scripts: a linear rise over ``warmup_steps`` (the first step has
    rate 0), then by name, with ``x`` the share of the remaining steps done:

    - ``constant`` (no rise at all), ``constant_with_warmup``;
    - ``linear``: 1 - x;
    - ``cosine``: (1 + cos(2 pi c x)) / 2 with c = 0.5 cycles (Loshchilov & Hutter 2017, equation 5);
    - ``cosine_with_restarts``: (1 + cos(pi (c x mod 1))) / 2 with c = 1 restart;
    - ``polynomial``: from the peak down to 1e-7 as (1 - x)^power;
    - ``piecewise_constant`` (no rise): the factors of ``step_rules``, such as "1:10,0.1:20,0.01", each until its step.
    """
    steps = np.arange(total_steps, dtype=np.float64)
    rise = steps / max(1, warmup_steps)
    x = (steps - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "piecewise_constant":
        rules, last = parse_step_rules(step_rules or "1")
        factors = [factor for factor, _ in rules] + [last]
        return peak * np.array(factors)[np.searchsorted([until for _, until in rules], steps, side="right")]
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


class Optimizer(nn.Cell):
    """What all optimisers here share: they can be told to change nothing, and read their numbers from a table.

    Args:
        parameters: what is updated, float32.
    """

    def __init__(self, parameters: ms.ParameterTuple, weight_decay: float):
        super().__init__(auto_prefix=False)
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.map = ops.HyperMap()

    def slots(self) -> dict[str, ms.ParameterTuple]:
        """What is kept for each parameter, by kind."""
        raise NotImplementedError

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """The optimiser's columns of the step table: its numbers in each step, float64 of shape (steps, numbers)."""
        raise NotImplementedError

    def nothing(self) -> tuple[float, ...]:
        """The numbers with which an update by zeros changes no bit."""
        raise NotImplementedError

    def _rates_and_decays(self, rates: np.ndarray, *constants: float) -> np.ndarray:
        """Columns: the learning rate, the share by which weights decay, and constants."""
        return np.stack([rates, rates * self.weight_decay, *(np.full_like(rates, one) for one in constants)], axis=1)


class AdamW(Optimizer):
    """Adam with decoupled weight decay, with or without bias correction.

    Kingma & Ba 2015 (algorithm 1) and Loshchilov & Hutter 2019 (algorithm 2). The bias corrections are folded into
    the learning rate, epsilon and weight decay of each step:
    ``lr m^ / (sqrt(v^) + eps)  =  lr' m / (sqrt(v) + eps')`` with ``lr' = lr sqrt(1 - b2^t) / (1 - b1^t)`` and
    ``eps' = eps sqrt(1 - b2^t)``.

    Args:
        parameters: what is trained, float32.
        backend: of the device, for the operator that updates.
        bias_correction: without it, this is the tutorial's ``AdamWeightDecay``.
    """

    def __init__(
        self,
        parameters: ms.ParameterTuple,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        backend: Backend,
        bias_correction: bool = True,
    ):
        super().__init__(parameters, weight_decay)
        self.moments1 = parameters.clone(prefix="moments1", init="zeros")
        self.moments2 = parameters.clone(prefix="moments2", init="zeros")
        self.settings = (beta1, beta2, epsilon, bias_correction)
        self.update = backend.adamw(parameters)

    def slots(self) -> dict[str, ms.ParameterTuple]:
        return {"moments1": self.moments1, "moments2": self.moments2}

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """lr', beta1, beta2, eps', decay'; see :meth:`Optimizer.columns`."""
        beta1, beta2, epsilon, bias_correction = self.settings
        correction1 = correction2 = np.ones_like(rates)
        if bias_correction:
            t = np.arange(1, len(rates) + 1, dtype=np.float64)
            correction1, correction2 = 1.0 - beta1**t, np.sqrt(1.0 - beta2**t)
        betas = [np.full_like(rates, beta1), np.full_like(rates, beta2)]
        decays = self.weight_decay * correction1 / correction2
        return np.stack([rates * correction2 / correction1, *betas, epsilon * correction2, decays], axis=1)

    def nothing(self) -> tuple[float, ...]:
        return 0.0, 1.0, 1.0, self.settings[2], 0.0

    def construct(self, gradients, numbers):
        """Update the parameters in place.

        Args:
            gradients: float32, like the parameters.
            numbers: a row of :meth:`columns`, or :meth:`nothing` with gradients of zeros; float32 of shape () each.
                More numbers than the optimizer's own may follow.
        """
        return self.update(numbers[:5], self.parameters, self.moments1, self.moments2, gradients)


def _sgd_update(learning_rate, decay, momentum, parameter, velocity, gradient):
    new_velocity = momentum * velocity + gradient
    ops.assign(velocity, new_velocity)
    return ops.assign_sub(parameter, learning_rate * new_velocity + decay * parameter)


class SGD(Optimizer):
    """Gradient descent with heavy-ball momentum, ``v = momentum v + g``, and decoupled weight decay (Loshchilov &
    Hutter 2019, algorithm 1)."""

    def __init__(self, parameters: ms.ParameterTuple, momentum: float, weight_decay: float):
        super().__init__(parameters, weight_decay)
        self.velocities = parameters.clone(prefix="velocities", init="zeros")
        self.momentum = momentum

    def slots(self) -> dict[str, ms.ParameterTuple]:
        return {"velocities": self.velocities}

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """Learning rate, decay, momentum."""
        return self._rates_and_decays(rates, self.momentum)

    def nothing(self) -> tuple[float, ...]:
        return 0.0, 0.0, 1.0

    def construct(self, gradients, numbers):
        """See :meth:`AdamW.construct`."""
        update = ops.partial(_sgd_update, numbers[0], numbers[1], numbers[2])
        return self.map(update, self.parameters, self.velocities, gradients)


def _lion_update(learning_rate, decay, beta1, beta2, parameter, moment, gradient):
    direction = ops.sign(beta1 * moment + (1.0 - beta1) * gradient)
    updated = ops.assign_sub(parameter, learning_rate * direction + decay * parameter)
    ops.assign(moment, beta2 * moment + (1.0 - beta2) * gradient)
    return updated


class Lion(Optimizer):
    """The sign of an interpolated momentum (Chen et al. 2023, algorithm 2)."""

    def __init__(self, parameters: ms.ParameterTuple, beta1: float, beta2: float, weight_decay: float):
        super().__init__(parameters, weight_decay)
        self.moments = parameters.clone(prefix="moments", init="zeros")
        self.betas = (beta1, beta2)

    def slots(self) -> dict[str, ms.ParameterTuple]:
        return {"moments": self.moments}

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """Learning rate, decay, beta1, beta2."""
        return self._rates_and_decays(rates, *self.betas)

    def nothing(self) -> tuple[float, ...]:
        return 0.0, 0.0, self.betas[0], 1.0

    def construct(self, gradients, numbers):
        """See :meth:`AdamW.construct`."""
        update = ops.partial(_lion_update, numbers[0], numbers[1], numbers[2], numbers[3])
        return self.map(update, self.parameters, self.moments, gradients)


def _adafactor_update(learning_rate, decay, keep, take, parameter, rows, columns, gradient):
    # The squares' floor is the paper's eps_1. `take` is 0 where nothing may change.
    squares = ops.square(gradient) + 1e-30
    if parameter.ndim > 1:
        squares = squares.reshape(parameter.shape[0], -1)
        new_rows = keep * rows + take * squares.mean(1)
        new_columns = keep * columns + take * squares.mean(0)
        ops.assign(columns, new_columns)
        scale = new_rows / ops.maximum(new_rows.mean(), 1e-30)
        variance = (scale.reshape(-1, 1) * new_columns.reshape(1, -1)).reshape(parameter.shape)
    else:
        new_rows = keep * rows + take * squares
        variance = new_rows
    ops.assign(rows, new_rows)
    update = gradient * ops.rsqrt(ops.maximum(variance, 1e-30))
    update = update / ops.maximum(ops.sqrt(ops.square(update).mean()), 1.0)
    return ops.assign_sub(parameter, learning_rate * update + decay * parameter)


class Adafactor(Optimizer):
    """Adam's second moment kept as its row and column means, so that the state takes next to no memory.

    Shazeer & Stern 2018, algorithm 4, without first moment: decay ``1 - t^-0.8``, the update clipped to a root mean
    square of 1, and the learning rate as given, not relative to the weights' size. A convolution's kernel is seen as
    a matrix of (out channels) x (all the rest).
    """

    def __init__(self, parameters: ms.ParameterTuple, weight_decay: float):
        super().__init__(parameters, weight_decay)
        self.rows = ms.ParameterTuple(
            [_zeros("rows", parameter, parameter.shape[:1] or (1,)) for parameter in parameters]
        )
        self.columns_ = ms.ParameterTuple(
            [
                _zeros("columns", parameter, (parameter.size // parameter.shape[0] if parameter.ndim > 1 else 1,))
                for parameter in parameters
            ]
        )

    def slots(self) -> dict[str, ms.ParameterTuple]:
        return {"rows": self.rows, "columns": self.columns_}

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """Learning rate, weight decay, and the shares of the old and of the new second moment."""
        take = np.arange(1, len(rates) + 1, dtype=np.float64) ** -0.8
        return np.concatenate([self._rates_and_decays(rates), np.stack([1.0 - take, take], axis=1)], axis=1)

    def nothing(self) -> tuple[float, ...]:
        return 0.0, 0.0, 1.0, 0.0

    def construct(self, gradients, numbers):
        """See :meth:`AdamW.construct`."""
        update = ops.partial(_adafactor_update, numbers[0], numbers[1], numbers[2], numbers[3])
        return self.map(update, self.parameters, self.rows, self.columns_, gradients)


def _zeros(prefix: str, parameter: ms.Parameter, shape: tuple[int, ...]) -> ms.Parameter:
    return ms.Parameter(ms.Tensor(np.zeros(shape), ms.float32), name=f"{prefix}.{parameter.name}", requires_grad=False)


def is_elementwise(name: str) -> bool:
    """Whether the optimizer of this name updates each element by itself: see :class:`Optimizer`."""
    return name != "adafactor"


def make_optimizer(config: EngineConfig, parameters: ms.ParameterTuple, backend: Backend) -> Optimizer:
    decay = config.adam_weight_decay
    if config.optimizer == "sgd":
        return SGD(parameters, config.adam_beta1, decay)
    if config.optimizer == "lion":
        return Lion(parameters, config.adam_beta1, config.adam_beta2, decay)
    if config.optimizer == "adafactor":
        return Adafactor(parameters, decay)
    return AdamW(
        parameters,
        config.adam_beta1,
        config.adam_beta2,
        config.adam_epsilon,
        decay,
        backend,
        bias_correction=config.optimizer == "adamw",
    )

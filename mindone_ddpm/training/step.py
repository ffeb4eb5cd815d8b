"""The TrainStep cell: scale, accumulate, reduce, check, clip, update, count.

One update boundary, in this order: accumulate, all-reduce, unscale, finite check, clip, optimiser, EMA, step += 1,
clear. An overflow clears and counts a skip, and changes nothing else. The verdict never leaves the device: instead
of a branch, the update is taken with values that change no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from mindone_ddpm.backends.base import Backend
from mindone_ddpm.training.weights import SeparateWeights, TrainedWeights

BUCKET_ELEMENTS = 1 << 25  # 128 MiB of float32


def _flat(gradient):
    return gradient.astype(ms.float32).reshape(-1)


def _cut_out(vector, start, parameter):
    return ops.slice(vector, (start,), (parameter.size,)).reshape(parameter.shape)


class _Bucket(nn.Cell):
    """Sums some gradients over the ranks as one vector, and what else is to be summed with them."""

    def __init__(self, parameters: ms.ParameterTuple):
        super().__init__(auto_prefix=False)
        self.parameters = parameters
        sizes = [parameter.size for parameter in parameters]
        self.starts, self.size = tuple(int(start) for start in np.cumsum([0, *sizes[:-1]])), sum(sizes)
        self.map = ops.HyperMap()
        self.reduce = ops.AllReduce()

    def construct(self, gradients, others):
        sums = self.reduce(ops.concat((*self.map(_flat, gradients), *others)))
        return self.map(ops.partial(_cut_out, sums), self.starts, self.parameters), sums


def bucket_ends(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """Where to cut a list of tensors, so that each part has at most ``most`` elements, or is one tensor.

    Returns:
        The number of the tensor after each part.
    """
    ends, filled = [], 0
    for number, size in enumerate(sizes):
        if filled and filled + size > most:
            ends.append(number)
            filled = 0
        filled += size
    return (*ends, len(sizes))


class SumOverRanks(nn.Cell):
    """Sums gradients, loss and weight over the ranks, in vectors of many tensors.

    Every collective costs a millisecond on a CPU, and tens of microseconds on an NPU, whatever its size. MindSpore's
    own DistributedGradReducer makes one for each parameter (seen with MindSpore 2.10 on Ascend, in graph mode at O0 as
    in PyNative). Vectors are limited because each needs its size in memory beside the gradients.
    """

    def __init__(self, parameters: ms.ParameterTuple, most_elements: int = BUCKET_ELEMENTS):
        super().__init__(auto_prefix=False)
        self.ends = bucket_ends([parameter.size for parameter in parameters], most_elements)
        ranges = zip((0, *self.ends[:-1]), self.ends, strict=True)
        parts = [_Bucket(ms.ParameterTuple(parameters[start:end])) for start, end in ranges]
        self.buckets, self.first_size = nn.CellList(parts, auto_prefix=False), parts[0].size

    def construct(self, gradients, loss, weight):
        scalars = (loss.reshape(1), weight.reshape(1))
        sums, first = self.buckets[0](gradients[: self.ends[0]], scalars)
        for number in range(1, len(self.ends)):
            more, _ = self.buckets[number](gradients[self.ends[number - 1] : self.ends[number]], ())
            sums = sums + more
        return sums, first[self.first_size], first[self.first_size + 1]


def _clear(order, total):
    # Computed, and not before ``order`` is: ops.zeros_like would be a constant, in the device's memory for good.
    return ops.assign(total, mint.zeros_like(ops.depend(total, order)))


class OptimizerUpdate(nn.Cell):
    """Turns the gradients of a window of micro-batches into one update.

    State, all on the device: ``step`` (optimiser steps done), ``skips`` and ``consecutive_skips`` (updates not made
    because a gradient was not finite), ``loss_scale``, and ``good_steps`` since the scale last changed.

    Args:
        optimizer: has ``parameters``, ``columns(rates)``, ``nothing()``, and ``construct(gradients, numbers)``.
        rates: the learning rate of each optimiser step, float of shape (steps,).
        backend: of the device, for the operators that measure and scale gradients.
        max_grad_norm: clip the global norm to this; 0 or less does not clip.
        loss_scale: the scale, or with ``dynamic_scaling`` the first one: halved (not below 1) by an overflow, doubled
            after ``scale_growth_interval`` steps without one (Micikevicius et al. 2018, section 3.2).
        ema: an ExponentialMovingAverage to update after the optimiser, or None.
        power_averages: more of them, by their widths; they are part of the state.
        world_size: ranks over which gradients, losses and weights are summed, once an update.
        weights: where the trained weights are kept; by default each in a parameter of its own.
    """

    def __init__(
        self,
        optimizer: Any,
        rates: np.ndarray,
        backend: Backend,
        max_grad_norm: float = 0.0,
        loss_scale: float = 1.0,
        dynamic_scaling: bool = False,
        scale_growth_interval: int = 2000,
        ema: Any = None,
        power_averages: Mapping[float, Any] | None = None,
        world_size: int = 1,
        weights: TrainedWeights | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.ema = ema
        self._weights = SeparateWeights(optimizer.parameters) if weights is None else weights
        self._slots: dict[str, ms.Parameter] = {}
        self.refresh: Any = self._weights.refresh
        self.power_averages = dict(power_averages or {})
        averages = [*([] if ema is None else [ema]), *self.power_averages.values()]
        self.averages = nn.CellList(averages, auto_prefix=False) if averages else ()
        columns = [optimizer.columns(rates), *(average.columns() for average in averages)]
        self.table = ms.Tensor(np.concatenate(columns, axis=1), ms.float32)
        # The row with which an update changes nothing.
        self.nothing = ms.Tensor([*optimizer.nothing(), *(0.0 for _ in averages)], ms.float32)
        self.first_average = self.table.shape[1] - len(averages)  # column
        self.num_averages = len(averages)
        self.last_row = len(rates) - 1
        self.max_grad_norm = max_grad_norm
        self.dynamic_scaling = dynamic_scaling
        self.scale_growth_interval = scale_growth_interval
        self.step = ms.Parameter(ms.Tensor(0, ms.int32), name="step", requires_grad=False)
        self.skips = ms.Parameter(ms.Tensor(0, ms.int32), name="skips", requires_grad=False)
        self.consecutive_skips = ms.Parameter(ms.Tensor(0, ms.int32), name="consecutive_skips", requires_grad=False)
        self.good_steps = ms.Parameter(ms.Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.loss_scale = ms.Parameter(ms.Tensor(loss_scale, ms.float32), name="loss_scale", requires_grad=False)
        self.map = ops.HyperMap()
        self.measure, self.rescale = backend.gradients(optimizer.parameters)
        self.is_distributed = world_size > 1
        if self.is_distributed:
            self.sum_over_ranks = SumOverRanks(optimizer.parameters)

    @property
    def weights(self) -> TrainedWeights:
        return self._weights

    def state(self) -> dict[str, ms.Parameter]:
        """All that an update reads and writes beside the weights and their average, by name: counters, then the
        optimizer's slots by kind and the name of the weight that they belong to, then the power averages likewise."""
        names = ("step", "skips", "consecutive_skips", "good_steps", "loss_scale")
        if not self._slots:
            for kind, slots in self.optimizer.slots().items():
                parts = zip(self._weights.names, self._weights.parts_of(slots), strict=True)
                self._slots |= {f"{kind}.{name}": part for name, part in parts}
            for width, average in self.power_averages.items():
                parts = zip(self._weights.names, average.parts(), strict=True)
                self._slots |= {f"average {width:.3f}.{name}": part for name, part in parts}
        return {**{name: getattr(self, name) for name in names}, **self._slots}

    def construct(self, gradients, loss, weight):
        """Update once.

        Args:
            gradients: of the *scaled* loss summed over the window.
            loss: the unscaled loss summed over the window, float32 of shape ().
            weight: what to divide both by, float32 of shape ().

        Returns:
            The mean loss and the global gradient norm before clipping, float32 of shape (), and the number of
            updates skipped in a row, int32 of shape (): 0 where this one was made.
        """
        if self.is_distributed:
            gradients, loss, weight = self.sum_over_ranks(gradients, loss, weight)
        unscale = 1.0 / (self.loss_scale * weight)
        squares, finite = self.measure(gradients)
        norm = ops.sqrt(squares) * unscale
        coefficient = unscale
        if self.max_grad_norm > 0:
            coefficient = unscale * ops.minimum(self.max_grad_norm / (norm + 1e-6), ms.Tensor(1.0, ms.float32))
        gradients = self.rescale(gradients, coefficient, finite)

        row = ops.gather(self.table, ops.minimum(self.step, self.last_row), 0)
        numbers = ops.unstack(ops.select(finite, row, self.nothing))
        updated = self.optimizer(gradients, numbers)

        for place in range(self.num_averages):
            updated = self.averages[place](ops.depend(numbers[self.first_average + place], updated))
        if self.refresh is not None:
            updated = self.refresh(updated)

        done = ops.depend(finite.astype(ms.int32), updated)
        consecutive_skips = (self.consecutive_skips + 1) * (1 - done)
        ops.assign_add(self.step, done)
        ops.assign_add(self.skips, 1 - done)
        ops.assign(self.consecutive_skips, consecutive_skips)
        if self.dynamic_scaling:
            self.adjust_scale(finite, done)
        return loss / weight, norm, consecutive_skips

    def adjust_scale(self, finite, done):
        good_steps = (self.good_steps + 1) * done
        grows = good_steps >= self.scale_growth_interval
        grown = ops.select(grows, self.loss_scale * 2.0, self.loss_scale * 1.0)
        halved = ops.maximum(self.loss_scale * 0.5, ms.Tensor(1.0, ms.float32))
        ops.assign(self.loss_scale, ops.select(finite, grown, halved))
        ops.assign(self.good_steps, good_steps * (1 - grows.astype(ms.int32)))


class DiffusionTrainStep(nn.Cell):
    """In the shape of mindone's TrainStep, exact. :meth:`run` takes a window of micro-batches and makes one update.

    With one micro-batch a window, forward, backward and update are one graph and no gradient is kept. With more,
    one graph adds a micro-batch's gradients to their sums and another, :class:`WindowUpdate`, makes the update, so
    that the network is compiled once either way.

    Args:
        loss_cell: maps a batch to the loss of each sample, float32 of shape (batch,).
        boundary: makes the update.
        accumulation_steps: the most micro-batches in a window.
    """

    def __init__(self, loss_cell: nn.Cell, boundary: OptimizerUpdate, accumulation_steps: int = 1):
        super().__init__()
        self.model = loss_cell.set_grad()
        self.boundary = boundary
        self.gather = boundary.weights.gather
        self.forward_and_backward = ms.value_and_grad(
            self.forward, None, weights=boundary.weights.differentiated, has_aux=True
        )
        self.accumulates = accumulation_steps > 1
        if self.accumulates:
            self.gradient_sums = boundary.optimizer.parameters.clone(prefix="gradient_sums", init="zeros")
            self.loss_sum = ms.Parameter(ms.Tensor(0.0, ms.float32), name="loss_sum", requires_grad=False)
            self.weight_sum = ms.Parameter(ms.Tensor(0.0, ms.float32), name="weight_sum", requires_grad=False)
            self.window_update = WindowUpdate(boundary, self.gradient_sums, self.loss_sum, self.weight_sum)

    def forward(self, *batch):
        """The scaled loss that is differentiated, then the plain one; sums over the batch divided by its size.

        The last element of the batch are the weights, float32 of shape (batch,): 1 for a sample, 0 for filling.
        """
        weights = batch[-1]
        loss = (self.model(*batch[:-1]) * weights).sum() / weights.shape[0]
        return loss * self.boundary.loss_scale, loss

    def construct(self, *batch):
        """One micro-batch; what the boundary returns where it also updates, else its loss and weight."""
        (_, loss), gradients = self.forward_and_backward(*batch)
        gradients = self.gather(gradients, loss)
        weight = batch[-1].sum() / batch[-1].shape[0]
        if self.accumulates:
            self.boundary.map(ops.assign_add, self.gradient_sums, gradients)
            ops.assign_add(self.loss_sum, loss)
            ops.assign_add(self.weight_sum, weight)
            return loss, weight
        return self.boundary(gradients, loss, weight)

    def run(self, window: list[list[ms.Tensor]]) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Train on a window of micro-batches: one update. Returns what :class:`OptimizerUpdate` does, on the device."""
        if not self.accumulates:
            return self(*window[0])
        for batch in window:
            self(*batch)
        return self.window_update()


class WindowUpdate(nn.Cell):
    """Makes one update from summed gradients, then clears the sums."""

    def __init__(self, boundary: OptimizerUpdate, gradient_sums: ms.ParameterTuple, loss_sum, weight_sum):
        super().__init__(auto_prefix=False)
        self.boundary = boundary
        self.gradient_sums, self.loss_sum, self.weight_sum = gradient_sums, loss_sum, weight_sum

    def construct(self):
        loss, norm, consecutive_skips = self.boundary(self.gradient_sums, self.loss_sum, self.weight_sum)
        self.boundary.map(ops.partial(_clear, loss), self.gradient_sums)
        ops.assign(self.loss_sum, ops.depend(ops.zeros_like(self.loss_sum), loss))
        ops.assign(self.weight_sum, ops.depend(ops.zeros_like(self.weight_sum), norm))
        return loss, norm, consecutive_skips

"""Where the trained weights are kept: each in a parameter of its own, or all in one vector.

On an NPU every operator costs a launch, whatever its size. With all weights in one vector, the update of a step takes
a few dozen launches, whatever the number of parameters. The network's parameters are then views of the vector: they
share its memory, and keep their names and shapes for checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm.models.precision import HalfCopies

# Elements to which the parameters in full precision are aligned, behind those in half precision.
ALIGNMENT = 256


class TrainedWeights(Protocol):
    """The weights as the train step sees them.

    Attributes:
        parameters: of the network, float32.
        names: theirs. (Cells that hold a parameter later put a prefix before its name.)
        differentiated: the parameters with respect to which the gradient is taken.
        updated: the parameters that the optimizer updates, float32.
        gather: a Cell from the gradients of ``differentiated`` to those of ``updated``.
        refresh: a Cell to call after each change of ``updated``; its argument only orders it. None: nothing to do.
    """

    parameters: Sequence[ms.Parameter]
    names: list[str]
    differentiated: ms.ParameterTuple
    updated: ms.ParameterTuple
    gather: nn.Cell
    refresh: nn.Cell | None

    def parts_of(self, parameters: Sequence[ms.Parameter]) -> list[ms.Parameter]:
        """The parts of something that is like ``updated`` (moments, averages), one for each of ``parameters``."""


class SameGradients(nn.Cell):
    """Returns its arguments."""

    def construct(self, gradients, order):
        return gradients


class SeparateWeights:
    """See :class:`TrainedWeights`. Each weight is a parameter of its own."""

    def __init__(self, parameters: Sequence[ms.Parameter]):
        self.parameters = parameters
        self.names = [parameter.name for parameter in parameters]
        self.differentiated = self.updated = ms.ParameterTuple(parameters)
        self.gather: nn.Cell = SameGradients()
        self.refresh: nn.Cell | None = None

    def parts_of(self, parameters: Sequence[ms.Parameter]) -> list[ms.Parameter]:
        return list(parameters)


class FlatWeights:
    """See :class:`TrainedWeights`. All weights in one float32 vector, of which the network's parameters are views.

    Weights of layers that compute in half precision come first. They have a second vector, in half precision, written
    once an update, of which the layers' half-precision copies are views: a weight is not cast where it is used, and
    its gradient is taken with respect to the copy.

    Within each group, the weights whose size has the larger power of two as a divisor come first. So each starts at a
    multiple of that power without gaps between them: at 32 bytes or more, but for the few of odd sizes at the end.

    Args:
        parameters: the trained parameters, float32.
        copies: the layers' copies in half precision.
    """

    def __init__(self, parameters: Sequence[ms.Parameter], copies: HalfCopies):
        ordered = sorted(parameters, key=lambda parameter: -(parameter.size & -parameter.size))
        half = [parameter for parameter in ordered if copies.has(parameter)]
        full = [parameter for parameter in ordered if not copies.has(parameter)]
        self.parameters: Sequence[ms.Parameter] = half + full
        self.names = [parameter.name for parameter in self.parameters]
        self.starts: list[int] = []
        half_size = self._place(half, 0)
        gap = -half_size % ALIGNMENT if half else 0
        size = self._place(full, half_size + gap)
        self.vector = self._vector("weights", size, ms.float32)
        for parameter, start in zip(self.parameters, self.starts, strict=True):
            values = ms.Tensor(parameter.asnumpy())
            share_memory(parameter, self.vector, start)
            ops.assign(parameter, values)
        self.updated = ms.ParameterTuple([self.vector])
        self.refresh: nn.Cell | None = None
        if half:
            # It has the length of the other one, because to take a part of that would be one more copy.
            half_vector = self._vector("half_weights", size, copies.dtype)
            for parameter, start in zip(half, self.starts, strict=False):
                share_memory(copies.of(parameter), half_vector, start)
            self.refresh = CastVector(self.vector, half_vector)
            refresh(self)
        self.differentiated = ms.ParameterTuple([copies.of(one) for one in half] + full)
        self.gather: nn.Cell = GatherGradients(len(half), gap, copies.dtype)

    def _place(self, parameters: Sequence[ms.Parameter], start: int) -> int:
        for parameter in parameters:
            self.starts.append(start)
            start += parameter.size
        return start

    @staticmethod
    def _vector(name: str, size: int, dtype: Any) -> ms.Parameter:
        """Zeros, in the device's memory."""
        vector = ms.Parameter(ms.Tensor(np.zeros(size, np.float32)).astype(dtype), name=name, requires_grad=False)
        ops.assign(vector, ops.zeros_like(vector))
        return vector

    def parts_of(self, parameters: Sequence[ms.Parameter]) -> list[ms.Parameter]:
        (vector,) = parameters
        ops.assign(vector, vector * 1.0)  # so that it is in the device's memory
        views = []
        for parameter, name, start in zip(self.parameters, self.names, self.starts, strict=True):
            zeros = ms.Tensor(np.zeros(parameter.shape, np.float32))
            view = ms.Parameter(zeros, name=f"{vector.name}.{name}", requires_grad=False)
            share_memory(view, vector, start)
            views.append(view)
        return views


def refresh(weights: TrainedWeights) -> None:
    """Tell that the weights were changed from outside the train step."""
    if weights.refresh is not None:
        weights.refresh(ms.Tensor(0.0, ms.float32))


def share_memory(parameter: ms.Parameter, vector: ms.Parameter, start: int) -> None:
    """Make a parameter a view of a vector of its type, from element ``start`` on. Its values are the vector's.

    A view that MindSpore's own operators make would be copied when a graph is given it.
    """
    address = vector.data_ptr() + start * vector.itemsize
    parameter.set_device_address(address, list(parameter.shape), parameter.dtype)


class CastVector(nn.Cell):
    """Writes the half-precision vector from the weights."""

    def __init__(self, weights: ms.Parameter, half: ms.Parameter):
        super().__init__(auto_prefix=False)
        self.weights, self.half = weights, half
        self.dtype = half.dtype

    def construct(self, order):
        # In place: ops.assign would need the cast copy, and MindSpore would make another of the weights.
        return ops.depend(self.half.copy_(self.weights), order)


def _flat(gradient):
    return gradient.reshape(-1)


class GatherGradients(nn.Cell):
    """Joins gradients, in the order of the parts, to one float32 vector.

    Args:
        num_half: how many of them, the first ones, are in half precision.
        gap: elements between these and the others.
        dtype: the half precision.
    """

    def __init__(self, num_half: int, gap: int, dtype: Any):
        super().__init__(auto_prefix=False)
        self.num_half = num_half
        self.zeros = (ms.Tensor(np.zeros(gap, np.float32)).astype(dtype),) if gap else ()
        self.map = ops.HyperMap()

    def construct(self, gradients, order):
        """The vector, in a tuple. Nothing that ``order`` depends on comes later than it."""
        parts = self.map(_flat, gradients)
        if self.num_half > 0:
            half = ops.concat(parts[: self.num_half] + self.zeros).astype(ms.float32)
            parts = (half, *parts[self.num_half :])
        return (ops.depend(ops.concat(parts), order),)


def make_weights(parameters: Sequence[ms.Parameter], network: nn.Cell, flat: bool) -> TrainedWeights:
    """
    Args:
        parameters: the trained ones of ``network``.
        network: what the train step differentiates. With ``flat``, its layers are given copies in half precision.
        flat: keep them in one vector.
    """
    return FlatWeights(parameters, HalfCopies([network])) if flat else SeparateWeights(parameters)

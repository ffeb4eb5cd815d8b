"""What a device has, and the operators of a training step in their plain form: MindSpore's own, as they run on Ascend.

The device is chosen once, in ``runtime.start.start``; its :class:`Backend` is handed down to whatever needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
from mindspore import ops

Tensors = tuple[ms.Tensor, ...]
Parameters = Sequence[ms.Parameter]


class Measure(Protocol):
    def __call__(self, gradients: Tensors) -> tuple[ms.Tensor, ms.Tensor]:
        """The sum of the squares of all gradients, float32, and whether all are finite, bool; both of shape ()."""


class Rescale(Protocol):
    def __call__(self, gradients: Tensors, coefficient: ms.Tensor, finite: ms.Tensor) -> Tensors:
        """The gradients times ``coefficient``, in float32; zeros where ``finite`` is false."""


class MoveAverages(Protocol):
    def __call__(self, share: ms.Tensor, averages: Parameters, parameters: Parameters) -> Any:
        """Move averages, in place, by ``share`` (float32, shape ()) of the way to their parameters.

        The result only orders operations in a graph.
        """


class AdamUpdate(Protocol):
    def __call__(
        self, numbers: Tensors, parameters: Parameters, moments1: Parameters, moments2: Parameters, gradients: Tensors
    ) -> Any:
        """AdamW's update of all parameters, in place, without bias correction (Loshchilov & Hutter 2019, algorithm 2).

        ``numbers`` are learning rate, beta1, beta2, epsilon and weight decay, float32 of shape (). The result only
        orders operations in a graph.
        """


class Rendezvous(Protocol):
    def wait(self) -> None:
        """Return when every rank has called this. Raises UserError if a rank has ended instead."""


class MakeRendezvous(Protocol):
    def __call__(
        self, rank: int, world_size: int, host: str, broadcast: Callable[[list[int]], Sequence[float]]
    ) -> Rendezvous:
        """Connect the ranks. ``broadcast`` gives every rank the main rank's list of integers below 2^24."""


@dataclass(frozen=True)
class Backend:
    """A device as the rest of the package sees it.

    Attributes:
        name: as MindSpore calls it: ``Ascend``, ``GPU`` or ``CPU``.
        default_precision: what ``--mixed_precision auto`` means.
        precisions: those for which the device has kernels, of ``no``, ``fp16`` and ``bf16``; known once
            :attr:`install` has run.
        caches_graphs: whether ``--compile_cache auto`` keeps compiled graphs.
        fused_attention: whether mindone's memory-efficient attention has a kernel.
        flat_weights: whether all trained weights are kept in one vector: see ``training.weights``.
        gradients: the operators for the gradients of some parameters.
        adamw: AdamW's update for some parameters.
        ema: the update of the moving averages of some parameters.
        install: puts substitutes for missing or slow operators in place. Returns what keeps the fast ones away, in a
            few words, or None.
        graph_facts: what of the device a compiled graph depends on, JSON values; known once :attr:`install` has run.
        rendezvous: how ranks wait for each other before a collective; None where the device's collectives wait
            long enough themselves.
        counts_memory: whether MindSpore's allocator says how much of the device's memory a step has taken.
    """

    name: str
    default_precision: str
    precisions: Callable[[], tuple[str, ...]]
    caches_graphs: bool
    fused_attention: bool
    flat_weights: bool
    gradients: Callable[[Parameters], tuple[Measure, Rescale]]
    adamw: Callable[[Parameters], AdamUpdate]
    ema: Callable[[Parameters], MoveAverages]
    install: Callable[[], str | None]
    graph_facts: Callable[[], dict[str, Any]]
    rendezvous: MakeRendezvous | None = None
    counts_memory: bool = False


# --- plain operators ------------------------------------------------------------------------------------------------

_map = ops.HyperMap()


def _squares(gradient):
    return ops.square(gradient.astype(ms.float32)).sum()


def _scaled(finite, coefficient, gradient):
    scaled = gradient.astype(ms.float32) * coefficient
    # One zero for all: zeros of the gradient's shape would be a constant of the graph, in the device's memory for good.
    return ops.select(finite, scaled, ms.Tensor(0.0, ms.float32))


def measure_plain(gradients):
    """See :class:`Measure`."""
    squares = ops.addn(_map(_squares, gradients))
    return squares, ops.logical_and(ms.amp.all_finite(gradients), ops.isfinite(squares))


def rescale_plain(gradients, coefficient, finite):
    """See :class:`Rescale`."""
    return _map(ops.partial(_scaled, finite, coefficient), gradients)


def gradients_plain(parameters: Parameters) -> tuple[Measure, Rescale]:
    return measure_plain, rescale_plain


def _move(share, average, parameter):
    return ops.assign(average, ops.lerp(average, parameter, share))


def move_averages_plain(share, averages, parameters):
    """See :class:`MoveAverages`."""
    return _map(ops.partial(_move, share), averages, parameters)


def ema_plain(parameters: Parameters) -> MoveAverages:
    return move_averages_plain


def adam_of_each(update, numbers, parameters, moments1, moments2, gradients):
    """Apply an update of one parameter to each of them."""
    learning_rate, beta1, beta2, epsilon, weight_decay = numbers
    update = ops.partial(update, learning_rate, beta1, beta2, epsilon, weight_decay)
    return _map(update, parameters, moments1, moments2, gradients)


def _adam(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    new_moment1 = beta1 * moment1 + (1.0 - beta1) * gradient
    new_moment2 = beta2 * moment2 + (1.0 - beta2) * ops.square(gradient)
    update = new_moment1 / (ops.sqrt(new_moment2) + epsilon) + weight_decay * parameter
    ops.assign(moment1, new_moment1)
    ops.assign(moment2, new_moment2)
    return ops.assign_sub(parameter, learning_rate * update)


def adam_plain(numbers, parameters, moments1, moments2, gradients):
    """See :class:`AdamUpdate`. MindSpore's own AdamWeightDecay takes this form on Ascend."""
    return adam_of_each(_adam, numbers, parameters, moments1, moments2, gradients)


def adamw_plain(parameters: Parameters) -> AdamUpdate:
    return adam_plain

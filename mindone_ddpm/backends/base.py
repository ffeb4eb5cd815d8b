"""What the engine must know of a device. Chosen once, in runtime.start; nothing else asks which device it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backend:
    """A device as the engine sees it.

    Attributes:
        name: ``Ascend``, ``GPU`` or ``CPU``.
        default_precision, precisions: of training; those that the device has kernels for.
        caches_graphs: whether compiled graphs are cached unless something else is asked for.
        fused_attention: whether mindone's memory-efficient attention has a kernel.
        flat_collectives: whether gradients travel as one vector, because each collective costs much.
        gradients: parameters to ``(measure, rescale)`` of their gradients.
        adamw, ema: parameters to the update of all of them.
        graph_facts: what else decides a compiled graph; JSON.
    """

    name: str
    default_precision: str
    precisions: tuple[str, ...]
    caches_graphs: bool
    fused_attention: bool
    flat_collectives: bool
    gradients: Callable[[Any], Any]
    adamw: Callable[[Any], Any]
    ema: Callable[[Any], Any]
    graph_facts: Callable[[], Any]

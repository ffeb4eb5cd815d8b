"""Exponential moving average of the weights: updated inside the compiled step, swapped in for evaluation."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm.averages.power import KEPT_WIDTHS, power_decays
from mindone_ddpm.backends.base import Backend
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.training.weights import TrainedWeights, refresh


def ema_decays(
    total_steps: int, inv_gamma: float = 1.0, power: float = 0.75, max_decay: float = 0.9999, fixed: float | None = None
) -> np.ndarray:
    """The decay used in the update after each optimiser step, float64 of shape (total_steps,).

    After step n (from 1) it is ``1 - (1 + (n - 1) / inv_gamma)^-power``, at most ``max_decay``, as in the published
    scripts: 0 in the first update, so that the average starts as a copy. ``fixed`` replaces it from the first step on.
    """
    if fixed is not None:
        return np.full(total_steps, fixed, dtype=np.float64)
    before = np.arange(total_steps, dtype=np.float64)
    return np.minimum(1.0 - (1.0 + before / inv_gamma) ** -power, max_decay)


class ExponentialMovingAverage(nn.Cell):
    """The average of ``parameters``, kept on the device beside them.

    Args:
        weights: what is averaged.
        decays: of each optimiser step; see :func:`ema_decays`.
        backend: of the device, for the operator that moves the averages.
        name: put before the parameters' names.
    """

    def __init__(self, weights: TrainedWeights, decays: np.ndarray, backend: Backend, name: str = "ema"):
        super().__init__(auto_prefix=False)
        parameters = weights.updated
        self._weights = weights
        self.parameters = parameters
        self.averages = parameters.clone(prefix=name, init="same")
        self._parts: list[ms.Parameter] = []
        for average, parameter in zip(self.averages, parameters, strict=True):
            ops.assign(average, parameter)  # the values on the device
        self.decays = decays
        self.move = backend.ema(parameters)

    def columns(self) -> np.ndarray:
        """Its column of the step table: 1 - decay, float64 of shape (steps, 1)."""
        return (1.0 - self.decays)[:, None]

    def construct(self, share):
        """Move the averages by ``share`` of the way to the parameters; 0 changes no bit."""
        return self.move(share, self.averages, self.parameters)

    def parts(self) -> list[ms.Parameter]:
        """The averages, one for each parameter of the weights."""
        if not self._parts:
            self._parts = self._weights.parts_of(self.averages)
        return self._parts

    def averaged(self, named: Iterable[tuple[str, ms.Parameter]]) -> list[tuple[str, ms.Parameter]]:
        """For each name and parameter of a network: the name and what stands for it in the averaged network."""
        parts = zip(self._weights.parameters, self.parts(), strict=True)
        average_of = {id(parameter): average for parameter, average in parts}
        return [(name, average_of.get(id(parameter), parameter)) for name, parameter in named]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters hold the averages inside, and their own values again afterwards, whatever happens."""
        kept = self._copies()
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(kept)
            kept.clear()
            gc.collect()  # parameters refer to themselves, and a copy of the weights may take gigabytes

    def _copies(self) -> list[ms.Parameter]:
        # Not by clone: MindSpore lists a parameter's clones in the parameter, and so keeps them for ever.
        kept = [ms.Parameter(ops.zeros_like(parameter), name=f"kept.{parameter.name}") for parameter in self.parameters]
        for keeper, parameter in zip(kept, self.parameters, strict=True):
            ops.assign(keeper, parameter)
        return kept

    def _set(self, values: Sequence[ms.Parameter]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            ops.assign(parameter, value)
        refresh(self._weights)


def make_ema(
    config: EngineConfig, weights: TrainedWeights, total_steps: int, backend: Backend
) -> ExponentialMovingAverage | None:
    if not config.use_ema:
        return None
    decays = ema_decays(total_steps, config.ema_inv_gamma, config.ema_power, config.ema_max_decay, config.ema_decay)
    return ExponentialMovingAverage(weights, decays, backend)


def make_power_averages(
    config: EngineConfig, weights: TrainedWeights, total_steps: int, backend: Backend
) -> dict[float, ExponentialMovingAverage]:
    """The averages that snapshots are taken of, by their widths; none without ``snapshot_steps``."""
    widths = KEPT_WIDTHS if config.snapshot_steps else ()
    return {
        width: ExponentialMovingAverage(weights, power_decays(total_steps, width), backend, f"average_{width:.3f}")
        for width in widths
    }

"""What every training objective offers, so that a job never asks which one it has.

An objective says how a sample is corrupted at a time, what the network must predict there, and how the prediction
becomes a loss. It runs inside the compiled step; its times are drawn on the host, sample by sample.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm.config.groups import LossConfig


class Objective(nn.Cell):
    """Base class. ``time_type`` is MindSpore's type of the times in a batch, ``time_dtype`` NumPy's.

    ``any_coupling``: samples and noise may depend on each other; see :mod:`mindone_ddpm.objectives.coupling`.

    The distance between prediction and target, averaged over a sample's elements, is the square (mse), the absolute
    value (l1), or ``2 c (sqrt(d^2 + c^2) - c)`` (huber, in its smooth form; Charbonnier et al. 1994).

    Args:
        loss_type: ``mse``, ``l1`` or ``huber``.
        huber_c: c.
    """

    time_type: Any = ms.int32
    time_dtype: Any = np.int32
    any_coupling = False

    def __init__(self, loss_type: str = "mse", huber_c: float = 0.1):
        super().__init__(auto_prefix=False)
        self.loss_type = loss_type
        self.huber_c = huber_c

    def draw_time(self, rng: np.random.Generator) -> float:
        """One time from the training distribution."""
        raise NotImplementedError

    def draw_time_within(self, rng: np.random.Generator, bucket: int, num_buckets: int) -> float:
        """One time, uniform in one of ``num_buckets`` equal ranges of times, from clean to noisy."""
        raise NotImplementedError

    def bucket_names(self, num_buckets: int) -> list[str]:
        """What to call the equal ranges of times in a metric's name, from clean to noisy."""
        raise NotImplementedError

    def corrupt(self, samples, noise, times, input_noise=None):
        """What goes into the network and what must come out.

        Args:
            samples, noise: float32 of shape (batch, channels, height, width).
            times: of shape (batch,), of ``time_dtype``.
            input_noise: what corrupts the input in place of ``noise``; the target keeps ``noise``.

        Returns:
            model_input like ``samples``, model_time (batch,), target like ``samples``, and the loss weight of each
            sample, float32 (batch,), or None where all weights are 1.
        """
        raise NotImplementedError

    def distance(self, error):
        if self.loss_type == "l1":
            return ops.abs(error)
        if self.loss_type == "huber":
            return 2.0 * self.huber_c * (ops.sqrt(ops.square(error) + self.huber_c**2) - self.huber_c)
        return ops.square(error)

    def loss(self, prediction, target, weight):
        """The loss of each sample, float32 of shape (batch,): mean distance over its elements, times its weight."""
        error = prediction.astype(ms.float32) - target
        loss = self.distance(error).mean((1, 2, 3))
        return loss if weight is None else loss * weight

    def plain(self) -> Objective:
        """The mean squared error on the same noise levels, each with the weight 1."""
        raise NotImplementedError

    def scheduler(self) -> Any:
        """The scheduler (of mindone) that samples from a model trained this way; it is saved with the pipeline."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What decides the training beside the settings; JSON."""
        return {name: value for name, value in self.scheduler().config.items() if not name.startswith("_")}


def draw_noise(rng: np.random.Generator, out: np.ndarray, config: LossConfig) -> np.ndarray | None:
    """Draw a sample's noise into ``out``, float32 of shape (channels, height, width).

    With ``noise_offset``, one number per channel is added to all of its elements (Guttenberg 2023, "Diffusion with
    offset noise").

    Returns:
        With ``input_perturbation``, the noise that corrupts the input instead: the same with more noise added (Ning et
        al. 2023, algorithm 1); else None.
    """
    rng.standard_normal(out=out, dtype=np.float32)
    if config.noise_offset:
        out += config.noise_offset * rng.standard_normal((len(out), 1, 1), dtype=np.float32)
    if not config.input_perturbation:
        return None
    more = rng.standard_normal(out.shape, dtype=np.float32)
    return out + np.float32(config.input_perturbation) * more

"""What a diffusion model is trained towards: noise levels, targets, distances, weights of timesteps.

The same for every job. With ``a_t`` the product of the alphas up to timestep t, a noisy sample is
``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps`` (Ho et al. 2020, equation 4), and its signal-to-noise ratio is
``SNR(t) = a_t / (1 - a_t)``.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops


def timestep_weights(
    alphas_cumprod: np.ndarray, prediction_type: str, snr_gamma: float | None = None, weighting: str = "uniform"
) -> np.ndarray:
    """The weight of each timestep in the loss, float64 of shape (num_train_timesteps,).

    Args:
        snr_gamma: Min-SNR (Hang et al. 2023, section 3.4): the loss on x_0 is weighed by min(SNR, gamma), and the other
            two so that they come to the same: min(SNR, gamma) / SNR for ``epsilon``, / (SNR + 1) for
            ``v_prediction``.
        weighting: without ``snr_gamma``: ``uniform``, or ``snr`` itself (Salimans & Ho 2022, equation 9).
    """
    alphas = alphas_cumprod.astype(np.float64)
    snr = alphas / (1.0 - alphas)
    if snr_gamma is None:
        return snr if weighting == "snr" else np.ones_like(snr)
    if prediction_type == "epsilon":
        return np.minimum(1.0, snr_gamma / np.maximum(snr, 1e-300))  # and 1 where there is no signal at all
    capped = np.minimum(snr, snr_gamma)
    return capped if prediction_type == "sample" else capped / (snr + 1.0)


class DenoisingLoss(nn.Cell):
    """The denoising loss of each sample (Ho et al. 2020, equation 14, and its x0 and v forms).

    The target is ``eps`` (epsilon), ``x_0`` (sample), or ``sqrt(a_t) eps - sqrt(1 - a_t) x_0`` (v_prediction;
    Salimans & Ho 2022, appendix D). The distance, averaged over a sample's elements, is the square (mse), the absolute
    value (l1), or ``2 c (sqrt(d^2 + c^2) - c)`` (huber, in its smooth form; Charbonnier et al. 1994).

    Args:
        alphas_cumprod: a_t for each timestep, float, shape (num_train_timesteps,).
        prediction_type: ``epsilon``, ``sample`` or ``v_prediction``.
        loss_type: ``mse``, ``l1`` or ``huber``.
        huber_c: c.
        weights: of each timestep, see :func:`timestep_weights`; None: all 1.
    """

    def __init__(
        self,
        alphas_cumprod: np.ndarray,
        prediction_type: str,
        loss_type: str = "mse",
        huber_c: float = 0.1,
        weights: np.ndarray | None = None,
    ):
        super().__init__(auto_prefix=False)
        alphas = alphas_cumprod.astype(np.float64)
        self.signal = ms.Tensor(np.sqrt(alphas), ms.float32)
        self.spread = ms.Tensor(np.sqrt(1.0 - alphas), ms.float32)
        self.prediction_type = prediction_type
        self.loss_type = loss_type
        self.huber_c = huber_c
        self.is_weighted = weights is not None and not np.all(weights == 1.0)
        self.weights = ms.Tensor(np.ones(1) if weights is None else weights, ms.float32)

    def add_noise(self, samples, noise, timesteps):
        """Noisy samples, same shape as ``samples``; ``timesteps`` int32 of shape (batch,)."""
        signal = ops.gather(self.signal, timesteps, 0).reshape(-1, 1, 1, 1)
        spread = ops.gather(self.spread, timesteps, 0).reshape(-1, 1, 1, 1)
        return signal * samples + spread * noise

    def target(self, samples, noise, timesteps):
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return samples
        signal = ops.gather(self.signal, timesteps, 0).reshape(-1, 1, 1, 1)
        spread = ops.gather(self.spread, timesteps, 0).reshape(-1, 1, 1, 1)
        return signal * noise - spread * samples

    def distance(self, error):
        if self.loss_type == "l1":
            return ops.abs(error)
        if self.loss_type == "huber":
            return 2.0 * self.huber_c * (ops.sqrt(ops.square(error) + self.huber_c**2) - self.huber_c)
        return ops.square(error)

    def construct(self, prediction, samples, noise, timesteps):
        """The loss of each sample, float32 of shape (batch,)."""
        error = prediction.astype(ms.float32) - self.target(samples, noise, timesteps)
        loss = self.distance(error).mean((1, 2, 3))
        if self.is_weighted:
            loss = loss * ops.gather(self.weights, timesteps, 0)
        return loss


def make_denoising_loss(config: Any, scheduler: Any) -> DenoisingLoss:
    """The loss that a configuration asks for, on a noise scheduler's levels."""
    alphas = scheduler.alphas_cumprod.asnumpy()
    kind = scheduler.config.prediction_type
    weighting = getattr(config, "loss_weighting", "uniform")
    if weighting == "auto":
        weighting = "snr" if kind == "sample" else "uniform"
    weights = timestep_weights(alphas, kind, config.snr_gamma, weighting)
    return DenoisingLoss(alphas, kind, config.loss_type, config.huber_c, weights)


def draw_noise(generator: np.random.Generator, out: np.ndarray, config: Any) -> np.ndarray | None:
    """Draw a sample's noise into ``out``, float32 of shape (channels, height, width).

    With ``noise_offset``, a number a channel is added everywhere in it (Guttenberg 2023, "Diffusion with offset
    noise").

    Returns:
        With ``input_perturbation``, the noise that goes into the input in its stead: the same and some more (Ning et
        al. 2023, algorithm 1); else None.
    """
    generator.standard_normal(out=out, dtype=np.float32)
    if config.noise_offset:
        out += config.noise_offset * generator.standard_normal((len(out), 1, 1), dtype=np.float32)
    if not config.input_perturbation:
        return None
    more = generator.standard_normal(out.shape, dtype=np.float32)
    return out + np.float32(config.input_perturbation) * more

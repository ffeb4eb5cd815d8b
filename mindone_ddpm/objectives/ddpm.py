"""Discrete denoising diffusion: noise levels, targets, distances, weights of timesteps.

With ``a_t`` the product of the alphas up to timestep t, a noisy sample is
``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps`` (Ho et al. 2020, equation 4), and its signal-to-noise ratio is
``SNR(t) = a_t / (1 - a_t)``.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.config.groups import LossConfig
from mindone_ddpm.objectives.base import Objective
from mindone_ddpm.objectives.config import NoiseScheduleConfig

with quiet_imports():
    from mindone.diffusers import (
        DDPMScheduler,
    )


def timestep_weights(
    alphas_cumprod: np.ndarray, prediction_type: str, snr_gamma: float | None = None, weighting: str = "uniform"
) -> np.ndarray:
    """The weight of each timestep in the loss, float64 of shape (num_train_timesteps,).

    Args:
        snr_gamma: Min-SNR (Hang et al. 2023, section 3.4): the loss on x_0 has the weight min(SNR, gamma). The others
            have the equivalent one: min(SNR, gamma) / SNR for ``epsilon``, / (SNR + 1) for ``v_prediction``.
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


class DDPMObjective(Objective):
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
        scheduler: a DDPMScheduler with these noise levels, for sampling.
    """

    def __init__(
        self,
        alphas_cumprod: np.ndarray,
        prediction_type: str,
        loss_type: str = "mse",
        huber_c: float = 0.1,
        weights: np.ndarray | None = None,
        scheduler: Any = None,
    ):
        super().__init__(auto_prefix=False)
        alphas = alphas_cumprod.astype(np.float64)
        self.num_train_timesteps = len(alphas)
        self.signal = ms.Tensor(np.sqrt(alphas), ms.float32)
        self.spread = ms.Tensor(np.sqrt(1.0 - alphas), ms.float32)
        self.prediction_type = prediction_type
        self.loss_type = loss_type
        self.huber_c = huber_c
        self.is_weighted = weights is not None and not np.all(weights == 1.0)
        self.weights = ms.Tensor(np.ones(1) if weights is None else weights, ms.float32)
        self._scheduler = scheduler

    @classmethod
    def for_scheduler(cls, scheduler: Any, config: LossConfig | None = None, weighting: str = "auto") -> DDPMObjective:
        """The objective on a scheduler's noise levels; without ``config`` the plain mean squared error.

        ``weighting`` is ``uniform``, ``snr``, or ``auto``: snr where the model predicts the sample, else uniform.
        """
        alphas, kind = scheduler.alphas_cumprod.asnumpy(), scheduler.config.prediction_type
        if config is None:
            return cls(alphas, kind, scheduler=scheduler)
        if weighting == "auto":
            weighting = "snr" if kind == "sample" else "uniform"
        weights = timestep_weights(alphas, kind, config.snr_gamma, weighting)
        return cls(alphas, kind, config.loss_type, config.huber_c, weights, scheduler)

    def draw_time(self, rng: np.random.Generator, bucket: int = 0, num_buckets: int = 1) -> int:
        first, end = (self.num_train_timesteps * b // num_buckets for b in (bucket, bucket + 1))
        return int(rng.integers(first, max(end, first + 1)))

    def bucket_names(self, num_buckets: int) -> list[str]:
        """Such as ``t000-099``."""
        edges = [self.num_train_timesteps * bucket // num_buckets for bucket in range(num_buckets + 1)]
        return [f"t{edges[b]:03d}-{edges[b + 1] - 1:03d}" for b in range(num_buckets)]

    def scheduler(self) -> Any:
        return self._scheduler

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in self._scheduler.config.items() if not name.startswith("_")}

    def corrupt(self, samples, noise, times, input_noise=None):
        signal = ops.gather(self.signal, times, 0).reshape(-1, 1, 1, 1)
        spread = ops.gather(self.spread, times, 0).reshape(-1, 1, 1, 1)
        model_input = signal * samples + spread * (noise if input_noise is None else input_noise)
        target = noise
        if self.prediction_type == "sample":
            target = samples
        elif self.prediction_type == "v_prediction":
            target = signal * noise - spread * samples
        weight = ops.gather(self.weights, times, 0) if self.is_weighted else None
        return model_input, times, target, weight

    def distance(self, error):
        if self.loss_type == "l1":
            return ops.abs(error)
        if self.loss_type == "huber":
            return 2.0 * self.huber_c * (ops.sqrt(ops.square(error) + self.huber_c**2) - self.huber_c)
        return ops.square(error)

    def loss(self, prediction, target, weight):
        error = prediction.astype(ms.float32) - target
        loss = self.distance(error).mean((1, 2, 3))
        return loss if weight is None else loss * weight


def make_noise_scheduler(config: NoiseScheduleConfig) -> DDPMScheduler:
    """The noise levels to train on. With the last one pure noise, sampling must begin there: trailing steps."""
    return DDPMScheduler(
        num_train_timesteps=config.ddpm_num_steps,
        beta_schedule=config.ddpm_beta_schedule,
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        timestep_spacing="trailing" if config.rescale_betas_zero_snr else "leading",
    )

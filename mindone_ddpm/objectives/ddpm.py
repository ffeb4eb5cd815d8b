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

from mindone_ddpm.config.groups import LossConfig
from mindone_ddpm.objectives.base import Objective
from mindone_ddpm.objectives.times import TimestepSampling, logistic


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
    Salimans & Ho 2022, appendix D).

    Args:
        alphas_cumprod: a_t for each timestep, float, shape (num_train_timesteps,).
        prediction_type: ``epsilon``, ``sample`` or ``v_prediction``.
        loss_type, huber_c: see :class:`~mindone_ddpm.objectives.base.Objective`.
        weights: of each timestep, see :func:`timestep_weights`; None: all 1.
        scheduler: a DDPMScheduler with these noise levels, for sampling.
        sampling: the distribution of the timesteps.
    """

    def __init__(
        self,
        alphas_cumprod: np.ndarray,
        prediction_type: str,
        loss_type: str = "mse",
        huber_c: float = 0.1,
        weights: np.ndarray | None = None,
        scheduler: Any = None,
        sampling: TimestepSampling | None = None,
    ):
        super().__init__(loss_type, huber_c)
        alphas = alphas_cumprod.astype(np.float64)
        self.num_train_timesteps = len(alphas)
        self.signal = ms.Tensor(np.sqrt(alphas), ms.float32)
        self.spread = ms.Tensor(np.sqrt(1.0 - alphas), ms.float32)
        self.prediction_type = prediction_type
        self.sampling = TimestepSampling() if sampling is None else sampling
        with np.errstate(divide="ignore"):
            log_levels = 0.5 * np.log((1.0 - alphas) / alphas)
        self.log_level_edges = (log_levels[1:] + log_levels[:-1]) / 2.0  # between neighbours
        self.is_weighted = weights is not None and not np.all(weights == 1.0)
        self.weights = ms.Tensor(np.ones(1) if weights is None else weights, ms.float32)
        self._scheduler = scheduler

    @classmethod
    def for_scheduler(
        cls,
        scheduler: Any,
        config: LossConfig | None = None,
        weighting: str = "auto",
        sampling: TimestepSampling | None = None,
    ) -> DDPMObjective:
        """The objective on a scheduler's noise levels; without ``config`` the plain mean squared error.

        ``weighting`` is ``uniform``, ``snr``, or ``auto``: snr where the model predicts the sample, else uniform.
        """
        alphas, kind = scheduler.alphas_cumprod.asnumpy(), scheduler.config.prediction_type
        if config is None:
            return cls(alphas, kind, scheduler=scheduler)
        if weighting == "auto":
            weighting = "snr" if kind == "sample" else "uniform"
        weights = timestep_weights(alphas, kind, config.snr_gamma, weighting)
        return cls(alphas, kind, config.loss_type, config.huber_c, weights, scheduler, sampling)

    def draw_time(self, rng: np.random.Generator) -> int:
        if self.sampling.kind == "uniform":
            if self.sampling.is_stratified:
                return int(self.sampling.draw_uniform(rng) * self.num_train_timesteps)
            return int(rng.integers(0, self.num_train_timesteps))
        value = self.sampling.draw_normal(rng)
        if self.sampling.kind == "lognormal":  # the timestep whose noise level is the nearest
            return int(np.searchsorted(self.log_level_edges, value))
        return min(int(logistic(value) * self.num_train_timesteps), self.num_train_timesteps - 1)

    def draw_time_within(self, rng: np.random.Generator, bucket: int, num_buckets: int) -> int:
        first, end = (self.num_train_timesteps * b // num_buckets for b in (bucket, bucket + 1))
        return int(rng.integers(first, max(end, first + 1)))

    def bucket_names(self, num_buckets: int) -> list[str]:
        """Such as ``t000-099``."""
        edges = [self.num_train_timesteps * bucket // num_buckets for bucket in range(num_buckets + 1)]
        return [f"t{edges[b]:03d}-{edges[b + 1] - 1:03d}" for b in range(num_buckets)]

    def scheduler(self) -> Any:
        return self._scheduler

    def plain(self) -> DDPMObjective:
        return DDPMObjective.for_scheduler(self._scheduler)

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

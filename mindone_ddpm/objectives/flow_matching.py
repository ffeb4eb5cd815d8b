"""Flow matching on straight paths: targets and times.

At the time ``s`` from 0 (data) to 1 (noise) a noisy sample is ``x_s = (1 - s) x_0 + s eps``, and the network predicts
its velocity ``dx_s / ds = eps - x_0`` (Lipman et al. 2023, with their sigma_min 0; Liu et al. 2023, equation 1).
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np

from mindone_ddpm.models.schedulers import flow_shift
from mindone_ddpm.objectives.base import Objective
from mindone_ddpm.objectives.times import TimestepSampling, logistic, shifted


class FlowMatchingObjective(Objective):
    """The distance between the predicted velocity and ``eps - x_0``. Times are ``s``, float32.

    The network is told the time ``num_train_timesteps * s``, as the schedulers of flow matching do.

    Args:
        scheduler: of flow matching; its shift moves the times of training as it does those of sampling.
        sampling: the distribution of the times, before the shift.
    """

    time_type: Any = ms.float32
    time_dtype: Any = np.float32
    any_coupling = True

    def __init__(
        self,
        scheduler: Any,
        sampling: TimestepSampling | None = None,
        loss_type: str = "mse",
        huber_c: float = 0.1,
    ):
        super().__init__(loss_type, huber_c)
        self._scheduler = scheduler
        self.sampling = TimestepSampling() if sampling is None else sampling
        self.shift = flow_shift(scheduler)
        self.num_train_timesteps = float(scheduler.config.num_train_timesteps)

    def draw_time(self, rng: np.random.Generator) -> float:
        # The logarithm of sigma / alpha = s / (1 - s) is the logit of s: lognormal is logit-normal here.
        is_uniform = self.sampling.kind == "uniform"
        time = self.sampling.draw_uniform(rng) if is_uniform else logistic(self.sampling.draw_normal(rng))
        return shifted(time, self.shift)

    def draw_time_within(self, rng: np.random.Generator, bucket: int, num_buckets: int) -> float:
        return (bucket + rng.random()) / num_buckets

    def bucket_names(self, num_buckets: int) -> list[str]:
        """Such as ``s0.0-0.1``."""
        return [f"s{bucket / num_buckets:.1f}-{(bucket + 1) / num_buckets:.1f}" for bucket in range(num_buckets)]

    def plain(self) -> FlowMatchingObjective:
        return FlowMatchingObjective(self._scheduler)

    def scheduler(self) -> Any:
        return self._scheduler

    def corrupt(self, samples, noise, times, input_noise=None):
        share = times.reshape(-1, 1, 1, 1)
        model_input = (1.0 - share) * samples + share * (noise if input_noise is None else input_noise)
        return model_input, times * self.num_train_timesteps, noise - samples, None

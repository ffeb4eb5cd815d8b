"""Where among the noise levels a model is trained: distributions of times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mindone_ddpm.common.randomness import even_share
from mindone_ddpm.objectives.config import TimestepConfig

SMALLEST = 1e-12  # share of a normal distribution's area


@dataclass(frozen=True)
class TimestepSampling:
    """A distribution of noise levels.

    ``uniform`` in the times; ``logit_normal``: the time, from 0 to 1, is the logistic function of a normal number
    (Esser et al. 2024, equation 19); ``lognormal``: the logarithm of sigma / alpha is a normal number (Karras et al.
    2022, table 1; there with mean -1.2 and deviation 1.2).

    ``is_stratified``: those of successive samples are spread evenly over it, by
    :func:`mindone_ddpm.common.randomness.even_share`, so that the loss of a batch varies less (as Kingma et al. 2021 do
    in their appendix I.1, with other numbers).
    """

    kind: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    is_stratified: bool = False

    @classmethod
    def of(cls, config: TimestepConfig) -> TimestepSampling:
        mean, std = {
            "uniform": (0.0, 1.0),
            "logit_normal": (config.logit_mean, config.logit_std),
            "lognormal": (config.lognormal_mean, config.lognormal_std),
        }[config.timestep_sampling]
        return cls(config.timestep_sampling, mean, std, config.stratified_timesteps)

    def draw_uniform(self, rng: np.random.Generator) -> float:
        """From 0 to below 1."""
        return even_share(rng) if self.is_stratified else rng.random()

    def draw_normal(self, rng: np.random.Generator) -> float:
        if not self.is_stratified:
            return self.mean + self.std * rng.standard_normal()
        return NormalDist(self.mean, self.std).inv_cdf(min(max(even_share(rng), SMALLEST), 1.0 - SMALLEST))


def logistic(value: float) -> float:
    """``1 / (1 + exp(-value))``, without overflow."""
    if value >= 0.0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))


def shifted(time: float, shift: float) -> float:
    """A time moved towards noise by ``shift`` > 1 (Esser et al. 2024, equation 23); 0 and 1 stay."""
    return shift * time / (1.0 + (shift - 1.0) * time)

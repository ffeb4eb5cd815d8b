"""Where among the noise levels a model is trained: distributions of times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mindone_ddpm.objectives.config import TimestepConfig


@dataclass(frozen=True)
class TimestepSampling:
    """A distribution of noise levels.

    ``uniform`` in the times; ``logit_normal``: the time, from 0 to 1, is the logistic function of a normal number
    (Esser et al. 2024, equation 19); ``lognormal``: the logarithm of sigma / alpha is a normal number (Karras et al.
    2022, table 1; there with mean -1.2 and deviation 1.2).
    """

    kind: str = "uniform"
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, config: TimestepConfig) -> TimestepSampling:
        if config.timestep_sampling == "logit_normal":
            return cls("logit_normal", config.logit_mean, config.logit_std)
        if config.timestep_sampling == "lognormal":
            return cls("lognormal", config.lognormal_mean, config.lognormal_std)
        return cls()

    def draw_normal(self, rng: np.random.Generator) -> float:
        return self.mean + self.std * rng.standard_normal()


def logistic(value: float) -> float:
    """``1 / (1 + exp(-value))``, without overflow."""
    if value >= 0.0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))


def shifted(time: float, shift: float) -> float:
    """A time moved towards noise by ``shift`` > 1 (Esser et al. 2024, equation 23); 0 and 1 stay."""
    return shift * time / (1.0 + (shift - 1.0) * time)

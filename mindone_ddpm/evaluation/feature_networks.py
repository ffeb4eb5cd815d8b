"""The network whose features a configuration asks for."""

from __future__ import annotations

from mindone_ddpm.evaluation.digits_network import load_digits_network
from mindone_ddpm.evaluation.features import RESIZES, FeatureNetwork
from mindone_ddpm.evaluation.inception import load_inception


def make_features(name: str, inception_weights: str | None, resize: str | None) -> FeatureNetwork:
    """Raises ConfigError if it cannot be had."""
    return load_digits_network() if name == "digits" else load_inception(inception_weights, resize or RESIZES[0])

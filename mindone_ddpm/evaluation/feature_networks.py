"""The feature network that settings ask for."""

from __future__ import annotations

from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.evaluation.digits_network import load_digits_network
from mindone_ddpm.evaluation.features import RESIZES, FeatureNetwork, Pixels
from mindone_ddpm.evaluation.inception import load_inception


def make_features(
    name: str, inception_weights: str | None, resize: str | None, hub: str = HUGGINGFACE
) -> FeatureNetwork:
    """A feature network.

    Args:
        name: ``inception``, ``digits`` or ``pixels``.
        inception_weights: see :func:`mindone_ddpm.evaluation.inception.find_inception_weights`.
        resize: of :data:`RESIZES`, by default the first; for Inception.
        hub: where its weights are looked up.

    Raises:
        ConfigError: there are no such weights.
    """
    if name == "digits":
        return load_digits_network()
    return Pixels() if name == "pixels" else load_inception(inception_weights, resize or RESIZES[0], hub)

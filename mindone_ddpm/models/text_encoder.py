"""mindone's text encoders, with operators that an NPU can differentiate.

Their layers are those of MindSpore's older ``nn``. The gradients of two of these, LayerNormGrad and BiasAddGrad, are
documented by CANN for the Ascend 950 alone; those of mint's layers for the Atlas A2 and A3 series too.
"""

from __future__ import annotations

from typing import Any

from mindspore import mint, nn


class LayerNorm(nn.LayerNorm):
    """The same by mint's operator."""

    def construct(self, input_x):
        return mint.nn.functional.layer_norm(input_x, self.normalized_shape, self.gamma, self.beta, self.epsilon)


class Dense(nn.Dense):
    """The same by mint's operator."""

    def construct(self, x):
        return mint.nn.functional.linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """The same by mint's operator."""

    def construct(self, ids):
        return mint.nn.functional.embedding(ids, self.embedding_table)


OF_MINT = {nn.LayerNorm: LayerNorm, nn.Dense: Dense, nn.Embedding: Embedding}


def use_mint_operators(text_encoder: Any) -> None:
    """Replace the layers of a text encoder, in place; parameters stay."""
    for _, cell in text_encoder.cells_and_names():
        cell.__class__ = OF_MINT.get(type(cell), type(cell))

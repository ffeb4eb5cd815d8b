"""mindone's text encoders, with operators that an NPU can differentiate.

Their layers are those of MindSpore's older ``nn``. The gradients of two of these, LayerNormGrad and BiasAddGrad, are
documented by CANN for the Ascend 950 alone; those of mint's layers for the Atlas A2 and A3 series too.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
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


class PooledEmbedding(nn.Cell):
    """The projected embedding of each text's end, as CLIPTextModelWithProjection's first output.

    The text encoder takes it by indices, whose gradient is a scattered sum; this by a product with ones and zeros.
    """

    def __init__(self, text_encoder: Any):
        super().__init__(auto_prefix=False)
        self.projection = text_encoder.text_projection
        self.end = int(text_encoder.text_model.eos_token_id)
        self.places = ms.Tensor(np.arange(text_encoder.config.max_position_embeddings), ms.int32)

    def construct(self, tokens, last_hidden_state):
        # Configurations that were written before transformers 4.30 say 2; the end has the largest id then.
        found = tokens if self.end == 2 else (tokens == self.end).astype(ms.int32)
        is_end = found.argmax(axis=-1).astype(ms.int32).expand_dims(-1) == self.places[: tokens.shape[1]]
        chosen = is_end.astype(last_hidden_state.dtype).expand_dims(1)
        return self.projection(mint.matmul(chosen, last_hidden_state).squeeze(1))

"""Tells a network in training how its images were augmented; a saved network knows nothing of it."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers.models.embeddings import TimestepEmbedding


class AugmentedTimestepEmbedding(TimestepEmbedding):
    """A TimestepEmbedding that in training adds a linear function of the augmentation, without a bias.

    Where nothing was augmented this adds nothing, so the network without it is the one for images as they are (Karras
    et al. 2022, appendix F.2). :meth:`AugmentCondition.for_network` sets its attributes.
    """

    def construct(self, sample, condition=None):
        embedding = self.linear_2(self.act(self.linear_1(sample)))
        if self.training:
            told = mint.matmul(self.augment_condition.value(), self.augment_weight)
            embedding = embedding + told.astype(embedding.dtype)
        return embedding


class AugmentCondition(nn.Cell):
    """Holds the conditions of a batch, and the trained weight; neither is among the network's parameters.

    Called with the conditions, float32 of shape (batch, size).
    """

    def __init__(self, batch_size: int, size: int, width: int):
        super().__init__(auto_prefix=False)
        shape = (batch_size, size)
        self.condition = ms.Parameter(ms.Tensor(np.zeros(shape), ms.float32), name="condition", requires_grad=False)
        self.weight = ms.Parameter(ms.Tensor(np.zeros((size, width)), ms.float32), name="augment.weight")

    def construct(self, condition):
        return ops.assign(self.condition, condition)

    @staticmethod
    def for_network(unet: Any, batch_size: int, size: int) -> AugmentCondition:
        """Make a UNet2DModel's time embedding listen to conditions of ``size`` numbers, in place."""
        embedding = unet.time_embedding
        told = AugmentCondition(batch_size, size, embedding.linear_2.weight.shape[0])
        embedding.__class__ = AugmentedTimestepEmbedding
        embedding.__dict__["augment_condition"] = told.condition  # not registered by Cell: not the network's own
        embedding.__dict__["augment_weight"] = told.weight
        return told

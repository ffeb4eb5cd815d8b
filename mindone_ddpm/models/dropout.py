"""Dropout that is a function of the sample: the same mask however a run is cut into batches, ranks and restarts.

MindSpore's own dropout draws from a generator inside the kernel, whose state no checkpoint can hold on every device.
Here each sample brings a 32-bit key from its own counter-based generator, and an element is dropped by a hash of the
key, the layer and its place.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops


def _as_int32(value: int) -> int:
    return int(np.uint32(value & 0xFFFFFFFF).astype(np.int32))


# The multipliers of a 32-bit integer hash whose every output bit depends on every input bit (Wellons 2018,
# "Prospecting for hash functions"), and the golden ratio to spread places and layers.
FIRST_MULTIPLIER, SECOND_MULTIPLIER = _as_int32(0x7FEB352D), _as_int32(0x846CA68B)


GOLDEN = 0x9E3779B1


def draw_dropout_key(generator: np.random.Generator) -> int:
    return int(generator.integers(-(2**31), 2**31))


def _shifted(values, bits):
    """Right shift of int32 as if it had no sign."""
    mask = ms.Tensor((1 << (32 - bits)) - 1, ms.int32)
    return ops.bitwise_and(ops.bitwise_right_shift(values, ms.Tensor(bits, ms.int32)), mask)


class KeyedDropout(mint.nn.Dropout):
    """A Dropout whose mask is a hash of the sample's key, the layer's number and the element's place.

    ``keys``: int32 Parameter of shape (batch,); ``layer``: a number of its own for each layer. Set by
    :meth:`DropoutKeys.for_network`.
    """

    def construct(self, input):
        if not self.training or self.p == 0:
            return input
        batch = input.shape[0]
        places = ops.arange(0, input.size // batch, 1).astype(ms.int32).reshape(1, -1)
        hashed = places * self.spread + (self.keys.value().reshape(batch, 1) + self.layer)
        hashed = ops.bitwise_xor(hashed, _shifted(hashed, 16)) * self.first
        hashed = ops.bitwise_xor(hashed, _shifted(hashed, 15)) * self.second
        hashed = ops.bitwise_xor(hashed, _shifted(hashed, 16))
        uniform = ops.bitwise_and(hashed, self.low_bits)  # 24 bits
        kept = (uniform >= self.threshold).astype(input.dtype).reshape(input.shape)
        return input * kept * (1.0 / (1.0 - self.p))


class DropoutKeys(nn.Cell):
    """Holds a batch's keys, where the layers of a network read them. Called with the keys, int32 of shape (batch,)."""

    def __init__(self, batch_size: int):
        super().__init__(auto_prefix=False)
        self.keys = ms.Parameter(ms.Tensor(np.zeros(batch_size), ms.int32), name="dropout_keys", requires_grad=False)

    def construct(self, keys):
        return ops.assign(self.keys, keys)

    @staticmethod
    def for_network(network: Any, batch_size: int) -> DropoutKeys | None:
        """Turn a network's dropout into keyed dropout; None where it has none."""
        cells = [cell for _, cell in network.cells_and_names() if type(cell) is mint.nn.Dropout and cell.p > 0]
        if not cells:
            return None
        keys = DropoutKeys(batch_size)
        for number, cell in enumerate(cells):
            cell.__class__ = KeyedDropout
            cell.__dict__["keys"] = keys.keys  # past Cell's registration: it is no parameter of the network
            cell.layer = ms.Tensor(_as_int32((number + 1) * GOLDEN), ms.int32)
            cell.spread = ms.Tensor(_as_int32(GOLDEN), ms.int32)
            cell.first = ms.Tensor(FIRST_MULTIPLIER, ms.int32)
            cell.second = ms.Tensor(SECOND_MULTIPLIER, ms.int32)
            cell.low_bits = ms.Tensor(0xFFFFFF, ms.int32)
            cell.threshold = ms.Tensor(int(cell.p * 2**24), ms.int32)
        return keys

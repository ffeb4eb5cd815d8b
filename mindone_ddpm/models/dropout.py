"""Dropout as a function of the sample: the mask does not depend on batches, ranks or restarts.

MindSpore's dropout uses a generator inside the kernel, whose state cannot be saved on every device. Here each sample
has a 32-bit key, drawn from its own counter-based generator, and an element is dropped by a hash of the key, the number
of the layer and the position of the element.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops


def _as_int32(value: int) -> int:
    return int(np.uint32(value & 0xFFFFFFFF).astype(np.int32))


# The multipliers of a 32-bit integer hash whose every output bit depends on every input bit (Wellons 2018,
# "Prospecting for hash functions"), and the golden ratio, by which positions and layers are multiplied.
FIRST_MULTIPLIER, SECOND_MULTIPLIER = _as_int32(0x7FEB352D), _as_int32(0x846CA68B)
GOLDEN_RATIO = 0x9E3779B1


def draw_dropout_key(rng: np.random.Generator) -> int:
    """The key of a sample, a signed 32-bit integer."""
    return int(rng.integers(-(2**31), 2**31))


def _shifted(values, bits):
    """Right shift of int32 as if it was unsigned."""
    mask = ms.Tensor((1 << (32 - bits)) - 1, ms.int32)
    return ops.bitwise_and(ops.bitwise_right_shift(values, ms.Tensor(bits, ms.int32)), mask)


class KeyedDropout(mint.nn.Dropout):
    """A Dropout whose mask is a hash of the sample's key, the layer's number and the element's position.

    :meth:`DropoutKeys.for_network` sets its attributes: ``keys``, an int32 Parameter of shape (batch,), ``layer``,
    another number for each layer, and constants.
    """

    def construct(self, input):
        if not self.training or self.p == 0:
            return input
        batch = input.shape[0]
        positions = ops.arange(0, input.size // batch, 1).astype(ms.int32).reshape(1, -1)
        hashed = positions * self.spread + (self.keys.value().reshape(batch, 1) + self.layer)
        hashed = ops.bitwise_xor(hashed, _shifted(hashed, 16)) * self.first
        hashed = ops.bitwise_xor(hashed, _shifted(hashed, 15)) * self.second
        hashed = ops.bitwise_xor(hashed, _shifted(hashed, 16))
        uniform = ops.bitwise_and(hashed, self.low_bits)  # 24 bits
        kept = (uniform >= self.threshold).astype(input.dtype).reshape(input.shape)
        return input * kept * (1.0 / (1.0 - self.p))


class DropoutKeys(nn.Cell):
    """Holds the keys of a batch for the layers of a network. Called with the keys, int32 of shape (batch,)."""

    def __init__(self, batch_size: int):
        super().__init__(auto_prefix=False)
        self.keys = ms.Parameter(ms.Tensor(np.zeros(batch_size), ms.int32), name="dropout_keys", requires_grad=False)

    def construct(self, keys):
        return ops.assign(self.keys, keys)

    @staticmethod
    def for_network(network: Any, batch_size: int) -> DropoutKeys | None:
        """Replace a network's dropout layers by keyed ones, in place; None if it has none."""
        cells = [cell for _, cell in network.cells_and_names() if type(cell) is mint.nn.Dropout and cell.p > 0]
        if not cells:
            return None
        keys = DropoutKeys(batch_size)
        for number, cell in enumerate(cells):
            cell.__class__ = KeyedDropout
            cell.__dict__["keys"] = keys.keys  # not registered by Cell: it is not a parameter of the network
            cell.layer = ms.Tensor(_as_int32((number + 1) * GOLDEN_RATIO), ms.int32)
            cell.spread = ms.Tensor(_as_int32(GOLDEN_RATIO), ms.int32)
            cell.first = ms.Tensor(FIRST_MULTIPLIER, ms.int32)
            cell.second = ms.Tensor(SECOND_MULTIPLIER, ms.int32)
            cell.low_bits = ms.Tensor(0xFFFFFF, ms.int32)
            cell.threshold = ms.Tensor(int(cell.p * 2**24), ms.int32)
        return keys

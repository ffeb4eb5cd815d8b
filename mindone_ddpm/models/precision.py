"""Mixed precision: convolutions and matrix products in half precision; normalisation and softmax in float32.

Parameters stay float32 (master weights). They are cast where they are used, so their gradients are float32. PyTorch's
autocast does the same.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import mint, nn

DTYPES = {"no": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


class HalfConv2d(mint.nn.Conv2d):
    """A Conv2d that computes in ``compute_dtype``."""

    def construct(self, input):
        dtype = self.compute_dtype
        bias = None if self.bias is None else self.bias.astype(dtype)
        return mint.nn.functional.conv2d(
            input.astype(dtype),
            self.weight.astype(dtype),
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class HalfLinear(mint.nn.Linear):
    """A Linear that computes in ``compute_dtype``."""

    def construct(self, x):
        dtype = self.compute_dtype
        bias = None if self.bias is None else self.bias.astype(dtype)
        return mint.nn.functional.linear(x.astype(dtype), self.weight.astype(dtype), bias)


class FloatGroupNorm(mint.nn.GroupNorm):
    """A GroupNorm that computes in float32 and returns ``compute_dtype``."""

    def construct(self, input):
        output = mint.nn.functional.group_norm(
            input.astype(ms.float32), self.num_groups, self.weight, self.bias, self.eps
        )
        return output.astype(self.compute_dtype)


class FloatLayerNorm(mint.nn.LayerNorm):
    """A LayerNorm that computes in float32 and returns ``compute_dtype``."""

    def construct(self, input):
        output = mint.nn.functional.layer_norm(
            input.astype(ms.float32), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return output.astype(self.compute_dtype)


_HALF = {
    mint.nn.Conv2d: HalfConv2d,
    mint.nn.Linear: HalfLinear,
    mint.nn.GroupNorm: FloatGroupNorm,
    mint.nn.LayerNorm: FloatLayerNorm,
}


def set_compute_precision(network: nn.Cell, precision: str) -> None:
    """Set the precision in which a network computes, in place. Its parameters keep their names and stay float32.

    Args:
        precision: a key of ``DTYPES``: ``no`` (float32), ``fp16`` or ``bf16``.
    """
    if precision == "no":
        return
    for _, cell in network.cells_and_names():
        if type(cell) in _HALF:
            cell.__class__ = _HALF[type(cell)]
            cell.compute_dtype = DTYPES[precision]
        elif hasattr(cell, "compute_dtype"):  # a layer that casts its own weights, such as an AdaptedLinear
            cell.compute_dtype = DTYPES[precision]
        if hasattr(cell, "upcast_softmax"):
            cell.upcast_softmax = True

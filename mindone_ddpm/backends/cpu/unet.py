"""A whole UNet2DModel, from its first convolution to its last, as one operator in C++, and its gradient as one.

What it is made of is written as rows of numbers, and the operator reads them: ``network.h``. The embeddings of time and
class stay MindSpore's. A UNet with something unusual, or in training with frozen weights, is computed cell by cell.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from mindone_ddpm.backends.cpu import blocks, native
from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers.models.attention_processor import Attention, AttnProcessor2_0
    from mindone.diffusers.models.downsampling import Downsample2D
    from mindone.diffusers.models.resnet import ResnetBlock2D
    from mindone.diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
    from mindone.diffusers.models.unets.unet_2d_blocks import (
        AttnDownBlock2D,
        AttnUpBlock2D,
        DownBlock2D,
        UNetMidBlock2D,
        UpBlock2D,
    )
    from mindone.diffusers.models.upsampling import Upsample2D

CONVOLUTION, RESNET, ATTENTION, NORM, ENLARGE, KEEP, JOIN = range(7)  # as in network.h
COLUMNS = 12

_mindone_construct = UNet2DModel.construct


class Row(NamedTuple):
    """A row of the plan, and the weights that it uses."""

    numbers: tuple[float, ...]
    weights: tuple[ms.Parameter, ...] = ()


class UnusualError(Exception):
    """The operator cannot compute this UNet."""


def _check(usual: bool) -> None:
    if not usual:
        raise UnusualError


# --- what a UNet is made of -------------------------------------------------------------------------------------------


def rows_of(unet: Any) -> Iterator[Row]:
    """The rows of a UNet2DModel, in the order in which they are computed.

    Raises:
        UnusualError: there is something that has no row.
    """
    _check(not unet.center_input_sample and unet.class_embed_type != "timestep")
    _check(unet.config["time_embedding_type"] != "fourier" and type(unet.conv_act) is mint.nn.SiLU)
    _check(blocks.is_plain_convolution(unet.conv_in, 3))
    yield _convolution(unet.conv_in)
    yield Row((KEEP,))
    for block in unet.down_blocks:
        yield from _down_block(block)
    if unet.mid_block is not None:
        yield from _mid_block(unet.mid_block)
    for block, number in zip(unet.up_blocks, unet.layers_per_resnet_in_up_blocks, strict=True):
        _check(len(block.resnets) == number)
        yield from _up_block(block)
    norm = unet.conv_norm_out
    _check(type(norm) is mint.nn.GroupNorm and norm.weight.dtype == ms.float32)
    yield Row((NORM, 0, norm.num_groups, norm.eps), (norm.weight, norm.bias))
    yield _convolution(unet.conv_out)


def _down_block(block: Any) -> Iterator[Row]:
    _check(type(block) in (DownBlock2D, AttnDownBlock2D))
    for number, resnet in enumerate(block.resnets):
        yield _resnet(resnet)
        if type(block) is AttnDownBlock2D:
            yield _attention(block.attentions[number])
        yield Row((KEEP,))
    if block.downsamplers is not None:
        _check(len(block.downsamplers) == 1)
        layer = block.downsamplers[0]
        _check(type(layer) is Downsample2D and layer.use_conv and layer.norm is None)
        yield _convolution(layer.conv, more_after=0 if layer.padding else 1)
        yield Row((KEEP,))


def _mid_block(block: Any) -> Iterator[Row]:
    _check(type(block) is UNetMidBlock2D)
    yield _resnet(block.resnets[0])
    for number, resnet in enumerate(list(block.resnets)[1:]):
        if block.add_attention:
            yield _attention(block.attentions[number])
        yield _resnet(resnet)


def _up_block(block: Any) -> Iterator[Row]:
    _check(type(block) in (UpBlock2D, AttnUpBlock2D))
    for number, resnet in enumerate(block.resnets):
        yield Row((JOIN,))
        yield _resnet(resnet)
        if type(block) is AttnUpBlock2D:
            yield _attention(block.attentions[number])
    if block.upsamplers is not None:
        _check(len(block.upsamplers) == 1)
        layer = block.upsamplers[0]
        _check(type(layer) is Upsample2D and layer.use_conv and not layer.use_conv_transpose)
        _check(layer.norm is None and layer.interpolate and layer.name == "conv")
        yield Row((ENLARGE,))
        yield _convolution(layer.conv)


def _convolution(layer: Any, more_after: int = 0) -> Row:
    _check(type(layer) is mint.nn.Conv2d and layer.native is not None and layer.bias is not None)
    _check(layer.weight.dtype == ms.float32 and layer.dilation == (1, 1) and layer.groups == 1)
    (side, width), (stride, stride_width) = layer.kernel_size, layer.stride
    before, before_width = layer.padding
    _check(side == width and stride == stride_width and before == before_width)
    numbers = (CONVOLUTION, float(layer.in_bf16), side, stride, before, before + more_after)
    return Row(numbers, (layer.weight, layer.bias))


def _resnet(block: Any) -> Row:
    _check(type(block) is ResnetBlock2D and block.operator is not None)
    layers = [block.norm1, block.conv1, block.norm2, block.conv2, block.time_emb_proj, block.conv_shortcut]
    weights = tuple(weight for layer in layers if layer is not None for weight in (layer.weight, layer.bias))
    return Row((RESNET, float(block.conv1.in_bf16), *blocks.resnet_block_settings(block)), weights)


def _attention(attn: Any) -> Row:
    _check(type(attn) is Attention and attn.operator is not None and type(attn.processor) is AttnProcessor2_0)
    layers = (attn.group_norm, attn.to_q, attn.to_k, attn.to_v, attn.to_out[0])
    weights = tuple(weight for layer in layers for weight in (layer.weight, layer.bias))
    return Row((ATTENTION, float(attn.in_bf16), *blocks.attention_settings(attn)), weights)


# What of a cell would be passed over: hooks, MindSpore's own recomputation, and a precision for all of it.
PASSED_OVER = (
    *("_lazy_forward_pre_hook", "_lazy_forward_hook", "_lazy_backward_pre_hook", "_lazy_backward_hook"),
    *("_has_config_recompute", "mixed_precision_type"),
)


def _rows(unet: Any) -> list[Row] | None:
    """The rows; None where the operator cannot compute this UNet."""
    inner = (cell for name, cell in unet.cells_and_names() if name)
    if any(cell.__dict__.get(attribute) for cell in inner for attribute in PASSED_OVER):
        return None
    try:
        rows = list(rows_of(unet))
    except UnusualError:
        return None
    frozen = any(not weight.requires_grad for row in rows for weight in row.weights)
    return None if unet.training and frozen else rows


def weights_of(unet: Any) -> tuple[ms.Parameter, ...]:
    """The weights of a UNet that has an operator, in the operator's order."""
    return tuple(weight for row in _rows(unet) or () for weight in row.weights)


# --- the operator -----------------------------------------------------------------------------------------------------


def sizes(plan: np.ndarray, keeps: bool, shapes: tuple) -> tuple[int, int, int, tuple[int, ...]]:
    """What the operator needs for inputs of these shapes, in numbers: to keep, to work in, to work in for the gradient;
    and the result's shape.

    Raises:
        ValueError: the shapes do not fit one another.
    """
    misfit = f"a UNet for {shapes[3][1]} channels does not fit {tuple(shapes[0])} with embeddings {tuple(shapes[1])}"
    if len(shapes[0]) != 4 or len(shapes[1]) != 2 or 0 in shapes[0]:
        raise ValueError(misfit)
    numbers = [(ctypes.c_int64 * len(shape))(*shape) for shape in shapes]
    pointer = ctypes.POINTER(ctypes.c_int64)
    pointers = (pointer * len(numbers))(*(ctypes.cast(shape, pointer) for shape in numbers))
    axes = (ctypes.c_int * len(numbers))(*map(len, numbers))
    parameters = (ctypes.c_void_p * len(numbers))()
    parameters[2] = plan.ctypes.data
    found = (ctypes.c_int64 * 7)()
    library = ctypes.CDLL(str(native.library()))
    if library.mindone_ddpm_unet_sizes(parameters, axes, pointers, int(keeps), found):
        raise ValueError(f"{misfit}; or height and width cannot be halved as often as it does")
    kept, working, for_gradient, *result = found
    return kept, working, for_gradient, tuple(result)


class WholeUNet(nn.Cell):
    """The operator with its gradient: a cell, because an operator's own gradient takes a fixed number of inputs.

    Called with images, embeddings (n, e), and :func:`weights_of`. The first of its outputs is the result.

    Args:
        rows: the plan.
        keeps: what the gradient needs is kept. Without, a gradient computes all again.
    """

    def __init__(self, rows: tuple[tuple[float, ...], ...], keeps: bool):
        super().__init__(auto_prefix=False)
        plan = np.zeros((len(rows), COLUMNS), np.float32)
        for number, row in enumerate(rows):
            plan[number, : len(row)] = row

        def shapes(*given):
            kept, working, _, result = sizes(plan, keeps, given)
            return result, (max(kept, 1),), (max(working, 1),)

        def gradient_shapes(*given):
            inputs, weights = given[:-2], given[3:-2]
            first_result = (given[0][0], weights[0][0], *given[0][2:])
            return first_result, given[1], (sizes(plan, True, inputs)[2],), *weights

        identity = (rows, keeps)
        self.plan, self.keeps = ms.Tensor(plan), keeps
        self.operator = native.operator(
            "unet" if keeps else "unet_once", shapes, native.like_first(3), settings=identity
        )
        self.again = self.operator if keeps else whole_unet(rows, True).operator
        self.backward = native.operator(
            "unet_backward", gradient_shapes, native.like_first(lambda count: count - 2), settings=rows
        )
        self.to_input, self.settings = native.convolution_to_input((1, 1), (1, 1), native.BF16 if rows[0][1] else "")

    def construct(self, sample, embedding, weights):
        return self.operator(sample, embedding, self.plan, *weights)

    def bprop(self, sample, embedding, weights, out, dout):
        kept = out[1]
        if not self.keeps:
            kept = self.again(sample, embedding, self.plan, *weights)[1]
        gradients = self.backward(sample, embedding, self.plan, *weights, kept, dout[0])
        # An operator of its own: a graph leaves it out where nobody asks for it.
        dsample = self.to_input(gradients[0], sample, weights[0], self.settings)
        return dsample, gradients[1], gradients[3:]


@functools.cache
def whole_unet(rows: tuple[tuple[float, ...], ...], keeps: bool) -> WholeUNet:
    return WholeUNet(rows, keeps)


def operator_of(unet: Any) -> WholeUNet | None:
    """The operator of a UNet2DModel; None for one with something unusual, or with frozen weights in training."""
    rows = _rows(unet)
    return None if rows is None else whole_unet(tuple(row.numbers for row in rows), unet.training)


# --- a UNet2DModel ----------------------------------------------------------------------------------------------------


def _embedding(unet, sample, timestep, class_labels):
    """Of times, with that of labels added, as mindone computes it: (n, e)."""
    timesteps = timestep if ops.is_tensor(timestep) else ms.tensor([timestep], dtype=ms.int32)
    if timesteps.ndim == 0:
        timesteps = timesteps[None]
    if timesteps.shape[0] == 1:
        timesteps = timesteps.tile((sample.shape[0],))
    embedding = unet.time_embedding(unet.time_proj(timesteps).astype(ms.float32)).astype(ms.float32)
    if unet.class_embedding is None:
        if class_labels is not None:
            raise ValueError("class_embedding needs to be initialized in order to use class conditioning")
        return embedding
    if class_labels is None:
        raise ValueError("class_labels should be provided when doing class conditioning")
    return embedding + unet.class_embedding(class_labels).astype(ms.float32)


def _unet(unet, sample, timestep, class_labels, return_dict):
    operator = unet.operator
    if operator is None or sample.dtype != ms.float32:
        return _mindone_construct(unet, sample, timestep, class_labels, return_dict)
    result = operator(sample, _embedding(unet, sample, timestep, class_labels), unet.operator_weights)[0]
    return UNet2DOutput(sample=result) if return_dict else (result,)


def unet_construct(self, sample, timestep, class_labels=None, return_dict=False):
    return _unet(self, sample, timestep, class_labels, return_dict)  # a graph would compile a property of `self`


# What a UNet2DModel becomes.
UNET = {
    "construct": unet_construct,
    "operator": property(operator_of),
    "operator_weights": property(weights_of),
    "held_weights": staticmethod(native.held_weights),
}

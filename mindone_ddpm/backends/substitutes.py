"""Substitutes for the operators of ``mindspore.mint`` that a GPU or a CPU lacks, or has in a slow form.

mindone is written for ``mindspore.mint``, whose operators are complete on Ascend only. Here are the missing ones, made
of MindSpore's own documented operators, for graph mode and PyNative alike. On Ascend this module is not even imported.

Every substitute is compared with NumPy, value and gradient, in ``tests/backends/test_substitutes.py``.
"""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import replace
from typing import Any

import mindspore as ms
from mindspore import ops

from mindone_ddpm.backends.base import (
    AdamUpdate,
    Backend,
    Parameters,
    adam_of_each,
    ema_plain,
    gradients_plain,
)
from mindone_ddpm.common.environment import ONEDNN_LIMIT
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.common.machine import cpu_features

_nonzero = ops.NonZero()
_real_div = ops.RealDiv()


# --- functions of mindspore.mint ------------------------------------------------------------------------------------


def arange(start=0, end=None, step=1, *, dtype=None):
    """Same as ``mint.arange``, for numbers known when the graph is compiled."""
    if end is None:
        start, end = 0, start
    values = ops.arange(start, end, step)
    return values if dtype is None else values.astype(dtype)


def zeros_like(input, *, dtype=None):
    return ops.zeros_like(input, dtype=dtype)


def ones_like(input, *, dtype=None):
    return ops.ones_like(input, dtype=dtype)


def split(tensor, split_size_or_sections, dim=0):
    return ops.split(tensor, split_size_or_sections, dim)


def chunk(input, chunks, dim=0):
    return ops.chunk(input, chunks, dim)


def linspace(start, end, steps, *, dtype=None):
    values = ops.arange(0, steps, 1).astype(ms.float32) * ((end - start) / max(steps - 1, 1)) + start
    return values if dtype is None else values.astype(dtype)


def stack(tensors, dim=0):
    return ops.stack(tensors, dim)


def baddbmm(input, batch1, batch2, *, beta=1, alpha=1):
    return beta * input + alpha * ops.bmm(batch1, batch2)


def repeat_interleave(input, repeats, dim=None, *, output_size=None):
    return ops.repeat_interleave(input, repeats, dim)


def norm(input, p="fro", dim=None, keepdim=False, *, dtype=None):
    """Euclidean norm; the only one that mindone's models ask for."""
    if p not in ("fro", 2, 2.0):
        raise ValueError(f"mint.norm on this device: p = {p!r} is not supported, only 2 or 'fro'")
    squares = ops.square(input if dtype is None else input.astype(dtype))
    return ops.sqrt(squares.sum() if dim is None else squares.sum(dim, keepdims=keepdim))


def nonzero(input, *, as_tuple=False):
    """Indices of the elements that are not zero: int64 of shape (number, axes), or one vector for each axis."""
    indices = _nonzero(input)
    return tuple(indices[:, axis] for axis in range(input.ndim)) if as_tuple else indices


def tensor_nonzero(self, *, as_tuple=False):
    return nonzero(self, as_tuple=as_tuple)


def pad(input, pad, mode="constant", value=None):
    """Padding by zeros without ``ops.pad``, whose gradient never returns on a CPU from about the 17th time on."""
    if mode != "constant" or value not in (None, 0, 0.0) or min(pad) < 0:
        return ops.pad(input, pad, mode, value)
    widths = [(0, 0)] * (input.ndim - len(pad) // 2)
    for axis in range(len(pad) // 2 - 1, -1, -1):  # the last axis comes first
        widths.append((pad[2 * axis], pad[2 * axis + 1]))
    return ops.Pad(tuple(widths))(input)


def mse_loss(input, target, reduction="mean"):
    squares = ops.square(input - target)
    if reduction == "mean":
        return squares.mean()
    return squares.sum() if reduction == "sum" else squares


def gelu(input, *, approximate="none"):
    if approximate == "tanh":
        return ops.gelu(input, approximate="tanh")
    return input * 0.5 * (1.0 + ops.erf(input * (1.0 / math.sqrt(2.0))))


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Normalise the last ``len(normalized_shape)`` axes (Ba et al. 2016, equation 4)."""
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keep_dims=True)
    output = centred * ops.rsqrt(ops.square(centred).mean(axes, keep_dims=True) + eps)
    if weight is not None:
        output = output * weight
    if bias is not None:
        output = output + bias
    return output


def embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False):
    return ops.gather(weight, input, 0)


def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    stride = kernel_size if stride is None else stride
    return ops.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override or 0)


def interpolate(input, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None):
    """Nearest enlargement by whole factors as a broadcast (MindSpore's resize kernel is slow here)."""
    if mode == "nearest" and size is not None and input.ndim == 4:
        batch, channels, height, width = input.shape
        new_height, new_width = size
        if new_height % height == 0 and new_width % width == 0:
            rows, columns = new_height // height, new_width // width
            spread = ops.broadcast_to(
                input.reshape(batch, channels, height, 1, width, 1), (batch, channels, height, rows, width, columns)
            )
            return spread.reshape(batch, channels, new_height, new_width)
    return ops.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Zero padding; stride, padding and dilation are integers or pairs."""
    return ops.conv2d(input, weight, bias, stride, "pad", padding, dilation, groups)


def dropout(input, p=0.5, training=True, inplace=False):
    return ops.dropout(input, p, training) if training and p > 0 else input


# --- cells of mindspore.mint.nn, and of mindone --------------------------------------------------------------------


def conv2d_construct(self, input):
    padding = self.padding
    if self.padding_mode != "zeros":
        input = ops.pad(input, self._reversed_padding, mode=self.padding_mode)
        padding = (0, 0)
    return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def dropout_construct(self, input):
    return ops.dropout(input, self.p, True) if self.training and self.p > 0 else input


def avg_pool2d_construct(self, input):
    return avg_pool2d(
        input,
        self.kernel_size,
        self.stride,
        self.padding,
        self.ceil_mode,
        self.count_include_pad,
        self.divisor_override,
    )


def gelu_construct(self, input):
    return gelu(input, approximate=self.approximate)


def layer_norm_construct(self, input):
    return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


def embedding_construct(self, input):
    return ops.gather(self.weight, input, 0)


def geglu_construct(self, hidden_states):
    """``Tensor.chunk`` has no kernel on a CPU in graph mode; ``ops.chunk`` has (Shazeer 2020, equation 5)."""
    hidden_states, gate = ops.chunk(self.proj(hidden_states), 2, -1)
    return hidden_states * self.gelu(gate)


def divide(x, number):
    """A tensor by a Python number. In a graph of MindSpore 2.9 and later, ``/`` keeps some eight copies of the tensor
    for its gradient."""
    return x if number == 1 else _real_div(x, number)


def activated_norm(self, norm, input):
    """A method of ResnetBlock2D: a normalisation and the block's activation."""
    return self.nonlinearity(norm(input))


def add_to_channels(self, input, values):
    """A method of ResnetBlock2D: ``input`` (n, c, h, w) plus ``values`` (n or 1, c).

    For an addition that broadcasts, MindSpore's graph keeps some four copies of the result for the gradient.
    """
    values = values.unsqueeze(2).unsqueeze(3)
    return input + (values if values.shape[0] != input.shape[0] else ops.broadcast_to(values, input.shape))


def resnet_block_construct(self, input_tensor, temb):
    """mindone's ResnetBlock2D, without the operations that are slow on this device."""
    hidden_states = self.activated_norm(self.norm1, input_tensor)
    if self.upsample is not None:
        input_tensor, hidden_states = self.upsample(input_tensor), self.upsample(hidden_states)
    elif self.downsample is not None:
        input_tensor, hidden_states = self.downsample(input_tensor), self.downsample(hidden_states)
    hidden_states = self.conv1(hidden_states)
    if self.time_emb_proj is not None:
        temb = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
    if self.time_embedding_norm == "scale_shift":
        scale, shift = ops.chunk(temb.unsqueeze(2).unsqueeze(3), 2, 1)
        hidden_states = self.nonlinearity(self.norm2(hidden_states) * (1 + scale) + shift)
    else:
        if self.time_embedding_norm == "default" and temb is not None:
            hidden_states = self.add_to_channels(hidden_states, temb)
        hidden_states = self.activated_norm(self.norm2, hidden_states)
    hidden_states = self.conv2(self.dropout(hidden_states))
    if self.conv_shortcut is not None:
        input_tensor = self.conv_shortcut(input_tensor)
    return divide(input_tensor + hidden_states, self.output_scale_factor)


# --- AdamW, one pass over memory for each parameter -----------------------------------------------------------------

_fused_adam = ops.AdamWeightDecay()


def _adam(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    return _fused_adam(parameter, moment1, moment2, learning_rate, beta1, beta2, epsilon, weight_decay, gradient)


def adam_fused(numbers, parameters, moments1, moments2, gradients):
    """See :class:`mindone_ddpm.backends.base.AdamUpdate`; MindSpore has it fused on a GPU and a CPU."""
    return adam_of_each(_adam, numbers, parameters, moments1, moments2, gradients)


def adamw_fused(parameters: Parameters) -> AdamUpdate:
    return adam_fused


# --- putting them in place ------------------------------------------------------------------------------------------


class Replacements:
    """Attributes of other modules' classes and of modules, replaced together and put back together.

    Args:
        attributes: by owner, such as ``("mindspore.mint.nn", "Conv2d")`` or ``("mindspore.mint", "")`` for a module
            itself: the attributes' names and what they become. An attribute that the owner does not have is added.
    """

    def __init__(self, attributes: dict[tuple[str, str], dict[str, Any]]):
        self.attributes = attributes
        self.originals: dict[tuple[Any, str], Any] = {}

    def install(self) -> None:
        for (module, name), attributes in self.attributes.items():
            owner: Any = importlib.import_module(module)
            owner = getattr(owner, name) if name else owner
            for attribute, value in attributes.items():
                self.originals.setdefault((owner, attribute), getattr(owner, attribute, _ABSENT))
                if attribute == "construct":
                    # By its function's name MindSpore looks for the method of a cell that it has compiled alone, where
                    # the cell is then a part of another.
                    value.__name__ = attribute
                setattr(owner, attribute, value)

    def remove(self) -> None:
        while self.originals:
            (owner, attribute), original = self.originals.popitem()
            if original is _ABSENT:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, original)

    def names(self) -> list[str]:
        """What is replaced now, such as ``Conv2d.construct``, sorted."""
        return sorted(f"{getattr(owner, '__qualname__', owner.__name__)}.{name}" for owner, name in self.originals)


_ABSENT = object()


def by_name(*functions: Any) -> dict[str, Any]:
    return {function.__name__: function for function in functions}


SUBSTITUTES = Replacements(
    {
        ("mindspore.mint", ""): by_name(
            *(arange, zeros_like, ones_like, split, chunk, linspace, stack, baddbmm, repeat_interleave, norm, nonzero)
        ),
        ("mindspore.mint.nn.functional", ""): by_name(
            pad, mse_loss, gelu, layer_norm, embedding, avg_pool2d, interpolate, conv2d, dropout
        ),
        ("mindspore", "Tensor"): {"nonzero": tensor_nonzero},
        ("mindspore.mint.nn", "Conv2d"): {"construct": conv2d_construct},
        ("mindspore.mint.nn", "Dropout"): {"construct": dropout_construct},
        ("mindspore.mint.nn", "AvgPool2d"): {"construct": avg_pool2d_construct},
        ("mindspore.mint.nn", "GELU"): {"construct": gelu_construct},
        ("mindspore.mint.nn", "LayerNorm"): {"construct": layer_norm_construct},
        ("mindspore.mint.nn", "Embedding"): {"construct": embedding_construct},
        ("mindone.diffusers.models.activations", "GEGLU"): {"construct": geglu_construct},
        ("mindone.diffusers.models.resnet", "ResnetBlock2D"): {
            "construct": resnet_block_construct,
            "activated_norm": activated_norm,
            "add_to_channels": add_to_channels,
        },
    }
)


def install() -> None:
    """For a GPU, and for a CPU without ``backends/cpu``."""
    with quiet_imports():
        SUBSTITUTES.install()


def graph_facts() -> dict[str, Any]:
    return {"cpu": cpu_features(), "substitutes": SUBSTITUTES.names(), "onednn": os.environ.get(ONEDNN_LIMIT)}


GPU = Backend(
    name="GPU",
    default_precision="fp16",
    precisions=lambda: ("no", "fp16", "bf16"),
    caches_graphs=False,
    fused_attention=False,
    flat_weights=False,
    gradients=gradients_plain,
    adamw=adamw_fused,
    ema=ema_plain,
    install=install,
    graph_facts=graph_facts,
)

# Where backends/cpu is not there. Its collectives exchange data over sockets: few large messages pay.
CPU = replace(GPU, name="CPU", default_precision="no", precisions=lambda: ("no", "fp16"), caches_graphs=True)

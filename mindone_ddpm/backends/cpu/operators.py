"""The cells and functions of a UNet over the operators in C++ (:mod:`mindone_ddpm.backends.cpu.native`), in float32.

Where an operator does not apply (float16, an unusual setting), the substitute of MindSpore's operators runs.

In bf16 all tensors stay float32. Convolutions, linear layers and attention round the factors of their products inside
their operators, except where float32 is as fast, and sum in float32: a cell that does so has ``in_bf16`` set, by its
method ``compute_inside``.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from mindone_ddpm.backends import substitutes
from mindone_ddpm.backends.cpu import blocks, native, unet
from mindone_ddpm.backends.substitutes import Replacements
from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers.utils.mindspore_utils import dtype_to_min


def are_float32(input, weight):
    """Whether the operators in C++ can take these."""
    return input.dtype == ms.float32 and weight.dtype == ms.float32


def compute_inside(self, precision):
    """Compute in a precision inside the operator, with float32 outside. Returns whether that is possible."""
    if precision == "bf16":
        self.in_bf16 = True
    return self.in_bf16


# --- layers -----------------------------------------------------------------------------------------------------------


def group_norm(norm, input, activates):
    """A GroupNorm cell's operator, followed by SiLU where ``activates`` is 1.0 instead of 0.0."""
    settings = ms.Tensor([norm.num_groups, norm.eps, activates], ms.float32)
    return native.group_norm(input, norm.weight, norm.bias, settings)[0]


_mint_conv2d_init = mint.nn.Conv2d.__init__


def conv2d_init(self, *arguments, **options):
    """A Conv2d that knows its operator in C++."""
    _mint_conv2d_init(self, *arguments, **options)
    self.native, self.native_settings = None, None
    if self.padding_mode == "zeros" and not isinstance(self.padding, str):
        self.native, self.native_settings = native.convolution(
            self.stride, self.padding, self.dilation, self.groups, self.bias is not None
        )


def conv2d_compute_inside(self, precision):
    """See :func:`compute_inside`."""
    if precision == "bf16" and self.native is not None:
        self.in_bf16 = True
        self.native, self.native_settings = native.convolution(
            self.stride, self.padding, self.dilation, self.groups, self.bias is not None, native.BF16
        )
    return precision == "bf16"


def conv2d_construct(self, input):
    if self.native is None or not are_float32(input, self.weight):
        return substitutes.conv2d_construct(self, input)
    if self.bias is None:
        return self.native(input, self.weight, self.native_settings)
    return self.native(input, self.weight, self.bias, self.native_settings)


def group_norm_construct(self, input):
    if not are_float32(input, self.weight):
        return ops.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
    return group_norm(self, input, 0.0)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    if weight is None or bias is None or len(normalized_shape) != 1 or not are_float32(input, weight):
        return substitutes.layer_norm(input, normalized_shape, weight, bias, eps)
    return native.layer_norm(input, weight, bias, ms.Tensor([eps], ms.float32))[0]


def layer_norm_construct(self, input):
    return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


def silu(input, inplace=False):
    return native.silu(input) if input.dtype == ms.float32 else ops.silu(input)


def linear(input, weight, bias=None):
    """As one operator: MindSpore's addition of a bias keeps tensors of four times the output's size."""
    if not are_float32(input, weight):
        return ops.dense(input, weight, bias)
    return native.linear(input, weight) if bias is None else native.linear_with_bias(input, weight, bias)


def linear_in_bf16(input, weight, bias=None):
    if not are_float32(input, weight):
        return ops.dense(input, weight, bias)
    if bias is None:
        return native.linear_bf16(input, weight)
    return native.linear_with_bias_bf16(input, weight, bias)


def linear_construct(self, x):
    return (linear_in_bf16 if self.in_bf16 else linear)(x, self.weight, self.bias)


# --- time embedding ---------------------------------------------------------------------------------------------------


def frequencies(timesteps):
    """Of the sines and cosines of a Timesteps cell (Vaswani et al. 2017, 3.5): float32, (1, channels // 2)."""
    half = timesteps.num_channels // 2
    exponents = -np.float32(math.log(10000)) * np.arange(half, dtype=np.float32)
    exponents /= np.float32(half - timesteps.downscale_freq_shift)
    return ms.Tensor((timesteps.scale * np.exp(exponents)).astype(np.float32)[None])


def timesteps_construct(self, timesteps):
    """mindone's Timesteps, whose frequencies are computed before; (n,) to float32 of shape (n, channels)."""
    return _time_embedding(self, timesteps)  # a graph would compile a property of `self`


def _time_embedding(cell, timesteps):
    angles = timesteps.astype(ms.float32).unsqueeze(1) * cell.frequencies
    first, second = (ops.cos, ops.sin) if cell.flip_sin_to_cos else (ops.sin, ops.cos)
    if cell.num_channels % 2 == 0:
        return ops.concat((first(angles), second(angles)), 1)
    return ops.concat((first(angles), second(angles), ops.zeros((timesteps.shape[0], 1), ms.float32)), 1)


# --- residual blocks ------------------------------------------------------------------------------------------------


def _activated_norm(block, norm, input):
    if block.activates_in_norm and are_float32(input, norm.weight):
        return group_norm(norm, input, 1.0)
    return block.nonlinearity(norm(input))


def activated_norm(self, norm, input):
    """As one operator: nothing between the normalisation and SiLU is kept for the gradient."""
    return _activated_norm(self, norm, input)  # a graph would compile a property of `self`


def add_to_channels(self, input, values):
    """``input`` (n, c, h, w) plus ``values`` (n or 1, c); see the function of that name in ``substitutes``."""
    if values.shape[0] != input.shape[0]:
        return input + values.unsqueeze(2).unsqueeze(3)
    if are_float32(input, values):
        return native.add_to_channels(input, values)
    return input + ops.broadcast_to(values.unsqueeze(2).unsqueeze(3), input.shape)


# --- attention --------------------------------------------------------------------------------------------------------


def swap_last_axes(input):
    """(n, r, c) to (n, c, r). MindSpore's transposition keeps a table of indices twice as large as the input."""
    return native.transpose(input) if input.dtype == ms.float32 else ops.transpose(input, (0, 2, 1))


def math_attention_construct(self, query, key, value, attn_mask=None):
    """mindone's attention by formula: softmax(scale q k^T + mask) v (Vaswani et al. 2017, equation 1)."""
    shape = query.shape
    query = query.reshape(-1, query.shape[-2], query.shape[-1])
    key = key.reshape(-1, key.shape[-2], key.shape[-1])
    value = value.reshape(-1, value.shape[-2], value.shape[-1])
    if attn_mask is not None and attn_mask.dtype == ms.bool_:
        attn_mask = ops.logical_not(attn_mask) * dtype_to_min(query.dtype)
    if attn_mask is not None and attn_mask.ndim == 4:  # (n, heads, t or 1, s)
        attn_mask = attn_mask.reshape(-1, attn_mask.shape[2], attn_mask.shape[3])
    return ops.bmm(self.get_attention_scores(query, key, attn_mask), value).reshape(shape)


def mask_of_heads(attn, mask, batch_size, length):
    """A mask (n, 1 or t, s) as (n, heads, 1 or t, s); mindone's way to repeat it lacks a kernel on a CPU."""
    if mask.ndim != 3 or mask.shape[0] != batch_size or mask.shape[2] != length:
        mask = attn.prepare_attention_mask(mask, length, batch_size)
    else:
        mask = ops.broadcast_to(mask.expand_dims(1), (batch_size, attn.heads, mask.shape[1], length))
    return mask.reshape(batch_size, attn.heads, -1, length)


def attention_construct(
    self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, *args, **kwargs
):
    """mindone's AttnProcessor2_0: softmax(scale q k^T + mask) v of several heads (Vaswani et al. 2017, section 3.2)."""
    is_alone = encoder_hidden_states is None and attention_mask is None
    if attn.operator is not None and is_alone and hidden_states.ndim == 4 and hidden_states.dtype == ms.float32:
        return blocks.attention(attn, hidden_states)
    return _attention_by_layers(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def _attention_by_layers(attn, hidden_states, encoder_hidden_states, attention_mask, temb):
    """Without a mask each head reads its columns where they are, instead of from a transposed copy."""
    residual = hidden_states
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    shape = hidden_states.shape
    if len(shape) == 4:
        hidden_states = hidden_states.reshape(shape[0], shape[1], shape[2] * shape[3])
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states)
        hidden_states = swap_last_axes(hidden_states)
    elif attn.group_norm is not None:
        hidden_states = swap_last_axes(attn.group_norm(swap_last_axes(hidden_states)))
    source = hidden_states
    if encoder_hidden_states is not None:
        source = encoder_hidden_states
        if attn.norm_cross:
            source = attn.norm_encoder_hidden_states(source)

    query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
    batch = source.shape[0]
    by_heads = (batch, -1, attn.heads, key.shape[2] // attn.heads)
    query, key, value = query.reshape(by_heads), key.reshape(by_heads), value.reshape(by_heads)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    if attention_mask is None and query.dtype == ms.float32 and value.shape == key.shape:
        operator = native.attention_bf16 if attn.in_bf16 else native.attention
        output = operator(query, key, value, ms.Tensor([attn.scale], ms.float32))[0]
    else:
        if attention_mask is not None:
            attention_mask = mask_of_heads(attn, attention_mask, batch, source.shape[1])
        query, key, value = query.swapaxes(1, 2), key.swapaxes(1, 2), value.swapaxes(1, 2)
        output = attn.math_attention_op(query, key, value, attention_mask).swapaxes(1, 2)
    output = output.reshape(batch, -1, attn.heads * output.shape[3])

    output = attn.to_out[1](attn.to_out[0](output))
    if len(shape) == 4:
        output = swap_last_axes(output).reshape(shape)
    if attn.residual_connection:
        output = output + residual
    return substitutes.divide(output, attn.rescale_output_factor)


INSIDE = {"in_bf16": False, "compute_inside": compute_inside}

OPERATORS = Replacements(
    {
        ("mindspore.mint.nn.functional", ""): {"silu": silu, "linear": linear, "layer_norm": layer_norm},
        # `native` for cells too that were made before.
        ("mindspore.mint.nn", "Conv2d"): {
            "__init__": conv2d_init,
            "construct": conv2d_construct,
            "native": None,
            "in_bf16": False,
            "compute_inside": conv2d_compute_inside,
        },
        ("mindspore.mint.nn", "GroupNorm"): {**INSIDE, "construct": group_norm_construct},
        ("mindspore.mint.nn", "LayerNorm"): {**INSIDE, "construct": layer_norm_construct},
        ("mindspore.mint.nn", "Linear"): {**INSIDE, "construct": linear_construct},
        ("mindone.diffusers.models.embeddings", "Timesteps"): {
            "construct": timesteps_construct,
            "frequencies": property(frequencies),
        },
        ("mindone.diffusers.models.resnet", "ResnetBlock2D"): {
            **blocks.RESNET_BLOCK,
            "activates_in_norm": property(blocks.activates_in_norm),
            "activated_norm": activated_norm,
            "add_to_channels": add_to_channels,
        },
        ("mindone.diffusers.models.attention_processor", "Attention"): {
            **INSIDE,
            **blocks.ATTENTION,
            "math_attention_op": math_attention_construct,
        },
        ("mindone.diffusers.models.attention_processor", "AttnProcessor2_0"): {"__call__": attention_construct},
        ("mindone.diffusers.models.unets.unet_2d", "UNet2DModel"): unet.UNET,
    }
)

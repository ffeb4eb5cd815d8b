"""The only place that knows a device lacks an operator, or has a slow one.

mindone is written for ``mindspore.mint``, whose operators are complete on Ascend alone. :func:`install`
replaces the missing ones, on a CPU or a GPU, by MindSpore's own documented operators with the same meaning,
for graph mode and PyNative alike. On Ascend it does nothing: there mindone's own kernels run.

Every substitute is compared with NumPy, value and gradient, in ``tests/test_kernels.py``.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import mindspore as ms
import mindspore.mint.nn.functional as mint_functional
from mindspore import mint, ops
from mindspore.ops.composite.multitype_ops import div_impl

from mindone_ddpm.backends.cpu import native
from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers.utils.mindspore_utils import dtype_to_min

_nonzero = ops.NonZero()


_real_div = ops.RealDiv()


_divs = div_impl.divs_op


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
    """Padding by zeros; numbers or pairs of them."""
    return ops.conv2d(input, weight, bias, stride, "pad", padding, dilation, groups)


def dropout(input, p=0.5, training=True, inplace=False):
    return ops.dropout(input, p, training) if training and p > 0 else input


def divide_by_number(x, y):
    """``tensor / number`` in a graph. MindSpore's own keeps some eight copies of the tensor for its gradient."""
    if x.dtype not in (ms.float32, ms.float16):
        return _divs(x, y)
    return x if y == 1 else _real_div(x, y)


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


def are_float32(input, weight):
    """What the operators of ``native.cpp`` can take."""
    return input.dtype == ms.float32 and weight.dtype == ms.float32


def group_norm(norm, input, activates):
    """A GroupNorm cell's operator, with SiLU behind it where ``activates`` is 1.0 instead of 0.0."""
    settings = ms.Tensor([norm.num_groups, norm.eps, activates], ms.float32)
    return native.group_norm(input, norm.weight, norm.bias, settings)[0]


def activates_in_norm(block):
    """Whether a ResnetBlock2D's normalisations and what follows them are one operator."""
    plain = type(block.norm1) is type(block.norm2) is mint.nn.GroupNorm
    return plain and isinstance(block.nonlinearity, mint.nn.SiLU) and has_native()


def activated_norm(block, norm, input):
    """A normalisation and SiLU; as one operator nothing between them is kept for the gradient."""
    if block.activates_in_norm and are_float32(input, norm.weight):
        return group_norm(norm, input, 1.0)
    return block.nonlinearity(norm(input))


def add_to_channels(block, input, numbers):
    """``input`` (n, c, h, w) plus ``numbers`` (n or 1, c).

    For an addition that broadcasts, MindSpore's graph keeps some four copies of the result for the gradient.
    """
    if numbers.shape[0] != input.shape[0]:
        return input + numbers.unsqueeze(2).unsqueeze(3)
    if block.has_native and are_float32(input, numbers):
        return native.add_to_channels(input, numbers)
    return input + ops.broadcast_to(numbers.unsqueeze(2).unsqueeze(3), input.shape)


def resnet_block_construct(self, input_tensor, temb):
    """mindone's ResnetBlock2D, with what MindSpore is slow at on this device done otherwise."""
    hidden_states = activated_norm(self, self.norm1, input_tensor)
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
            hidden_states = add_to_channels(self, hidden_states, temb)
        hidden_states = activated_norm(self, self.norm2, hidden_states)
    hidden_states = self.conv2(self.dropout(hidden_states))
    if self.conv_shortcut is not None:
        input_tensor = self.conv_shortcut(input_tensor)
    return (input_tensor + hidden_states) / self.output_scale_factor


def conv2d_init(self, *arguments, **options):
    """A Conv2d that knows its native operator."""
    _originals[(mint.nn.Conv2d, "__init__")](self, *arguments, **options)
    self.native, self.native_settings = None, None
    if self.padding_mode == "zeros" and not isinstance(self.padding, str):
        self.native, self.native_settings = native.convolution(
            self.stride, self.padding, self.dilation, self.groups, self.bias is not None
        )


def conv2d_native_construct(self, input):
    if self.native is None or not are_float32(input, self.weight):
        return conv2d_construct(self, input)
    if self.bias is None:
        return self.native(input, self.weight, self.native_settings)
    return self.native(input, self.weight, self.bias, self.native_settings)


def group_norm_construct(self, input):
    if not are_float32(input, self.weight):
        return ops.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
    return group_norm(self, input, 0.0)


def layer_norm_native(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    if weight is None or bias is None or len(normalized_shape) != 1 or not are_float32(input, weight):
        return layer_norm(input, normalized_shape, weight, bias, eps)
    return native.layer_norm(input, weight, bias, ms.Tensor([eps], ms.float32))[0]


def layer_norm_native_construct(self, input):
    return layer_norm_native(input, self.normalized_shape, self.weight, self.bias, self.eps)


def silu(input, inplace=False):
    return native.silu(input) if input.dtype == ms.float32 else ops.silu(input)


def linear(input, weight, bias=None):
    """As one operator: MindSpore's addition of a bias keeps tables of four times the output's size."""
    if not are_float32(input, weight):
        return ops.dense(input, weight, bias)
    return native.linear(input, weight) if bias is None else native.linear_with_bias(input, weight, bias)


def linear_construct(self, x):
    return linear(x, self.weight, self.bias)


def swap_last_axes(input):
    """(n, r, c) to (n, c, r). MindSpore's transposition keeps a table of twice the input's size for each place."""
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
    """A mask (n, 1 or t, s) as (n, heads, 1 or t, s); mindone's way to repeat it lacks a kernel on a processor."""
    if mask.ndim != 3 or mask.shape[0] != batch_size or mask.shape[2] != length:
        mask = attn.prepare_attention_mask(mask, length, batch_size)
    else:
        mask = ops.broadcast_to(mask.expand_dims(1), (batch_size, attn.heads, mask.shape[1], length))
    return mask.reshape(batch_size, attn.heads, -1, length)


def attention_construct(
    self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, *args, **kwargs
):
    """mindone's AttnProcessor2_0: softmax(scale q k^T + mask) v of several heads (Vaswani et al. 2017, section 3.2).

    Without a mask each head reads its columns where they are, instead of from a transposed copy.
    """
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
        output = native.attention(query, key, value, ms.Tensor([attn.scale], ms.float32))[0]
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
    return output / attn.rescale_output_factor


def _squares(gradient):
    return ops.square(gradient.astype(ms.float32)).sum()


def _scaled(finite, coefficient, gradient):
    scaled = gradient.astype(ms.float32) * coefficient
    return ops.select(finite, scaled, ops.zeros_like(scaled))


_map = ops.HyperMap()


def measure_plain(gradients):
    """The sum of all squares of a tuple of gradients, float32 of shape (), and whether all of them are finite."""
    squares = ops.addn(_map(_squares, gradients))
    return squares, ops.logical_and(ms.amp.all_finite(gradients), ops.isfinite(squares))


def rescale_plain(gradients, coefficient, finite):
    """The gradients times ``coefficient``, in float32; zeros where ``finite`` is false."""
    return _map(ops.partial(_scaled, finite, coefficient), gradients)


def measure_native(gradients):
    squares = native.sum_of_squares(*gradients)[0]
    return squares, ops.isfinite(squares)


def rescale_native(gradients, coefficient, finite):
    return native.scale_all(ops.select(finite, coefficient, ops.zeros_like(coefficient)), *gradients)


def is_for_native(parameters):
    """Whether one operator can take all of these parameters, or their gradients."""
    return has_native() and len(parameters) > 1 and all(parameter.dtype == ms.float32 for parameter in parameters)


def gradient_kernels(parameters):
    """``measure`` and ``rescale`` for the gradients of some parameters: see :func:`measure_plain` and
    :func:`rescale_plain` for what they compute."""
    return (measure_native, rescale_native) if is_for_native(parameters) else (measure_plain, rescale_plain)


def _move(share, average, parameter):
    return ops.assign_sub(average, share * (average - parameter))


def move_averages_plain(share, averages, parameters):
    """Take averages, in place, by ``share`` (float32, shape ()) of the way to their parameters."""
    return _map(ops.partial(_move, share), averages, parameters)


def move_averages_native(share, averages, parameters):
    return native.move_averages(share.reshape(1), *averages, *parameters)


def average_kernel(parameters):
    """The form of that for the device at hand."""
    return move_averages_native if is_for_native(parameters) else move_averages_plain


_fused_adam = ops.AdamWeightDecay()


def _adam_fused(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    return _fused_adam(parameter, moment1, moment2, learning_rate, beta1, beta2, epsilon, weight_decay, gradient)


def _adam_plain(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    new_moment1 = beta1 * moment1 + (1.0 - beta1) * gradient
    new_moment2 = beta2 * moment2 + (1.0 - beta2) * ops.square(gradient)
    update = new_moment1 / (ops.sqrt(new_moment2) + epsilon) + weight_decay * parameter
    ops.assign(moment1, new_moment1)
    ops.assign(moment2, new_moment2)
    return ops.assign_sub(parameter, learning_rate * update)


def _adam_of_each(update, numbers, parameters, moments1, moments2, gradients):
    learning_rate, beta1, beta2, epsilon, weight_decay = numbers
    update = ops.partial(update, learning_rate, beta1, beta2, epsilon, weight_decay)
    return _map(update, parameters, moments1, moments2, gradients)


def adam_plain(numbers, parameters, moments1, moments2, gradients):
    """AdamW's update of all parameters, in place, without bias correction (Loshchilov & Hutter 2019, algorithm 2).

    ``numbers`` are learning rate, beta1, beta2, epsilon and weight decay, float32 tensors of shape (). MindSpore's own
    AdamWeightDecay takes this form on Ascend.
    """
    return _adam_of_each(_adam_plain, numbers, parameters, moments1, moments2, gradients)


def adam_fused(numbers, parameters, moments1, moments2, gradients):
    """One pass over memory for each parameter, where MindSpore has it fused."""
    return _adam_of_each(_adam_fused, numbers, parameters, moments1, moments2, gradients)


def adam_native(numbers, parameters, moments1, moments2, gradients):
    return native.adam(ops.stack(numbers), *parameters, *moments1, *moments2, *gradients)


def adam_kernel(parameters):
    """The form of that for the device at hand."""
    if is_for_native(parameters):
        return adam_native
    return adam_fused if _originals else adam_plain


_MINT: tuple[Any, ...] = (
    arange,
    zeros_like,
    ones_like,
    split,
    chunk,
    linspace,
    stack,
    baddbmm,
    repeat_interleave,
    norm,
    nonzero,
)


_MINT_FUNCTIONAL: tuple[Any, ...] = (
    pad,
    mse_loss,
    gelu,
    layer_norm,
    embedding,
    avg_pool2d,
    interpolate,
    conv2d,
    dropout,
)


_MINT_CELLS = {
    "Conv2d": conv2d_construct,
    "Dropout": dropout_construct,
    "AvgPool2d": avg_pool2d_construct,
    "GELU": gelu_construct,
    "LayerNorm": layer_norm_construct,
    "Embedding": embedding_construct,
}


_MINDONE_CELLS: dict[tuple[str, str], dict[str, Any]] = {
    ("mindone.diffusers.models.activations", "GEGLU"): {"construct": geglu_construct},
    ("mindone.diffusers.models.resnet", "ResnetBlock2D"): {"construct": resnet_block_construct},
}


_NATIVE: dict[tuple[str, str], dict[str, Any]] = {
    ("mindspore.mint.nn", "Conv2d"): {"__init__": conv2d_init, "construct": conv2d_native_construct},
    ("mindspore.mint.nn", "GroupNorm"): {"construct": group_norm_construct},
    ("mindspore.mint.nn", "LayerNorm"): {"construct": layer_norm_native_construct},
    ("mindspore.mint.nn", "Linear"): {"construct": linear_construct},
    ("mindone.diffusers.models.attention_processor", "Attention"): {"math_attention_op": math_attention_construct},
    ("mindone.diffusers.models.attention_processor", "AttnProcessor2_0"): {"__call__": attention_construct},
}


# What cells say of themselves, those too that were made before the substitutes came.
_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("mindspore.mint.nn", "Conv2d"): {"native": None},
    ("mindone.diffusers.models.resnet", "ResnetBlock2D"): {
        "activates_in_norm": property(activates_in_norm),
        "has_native": property(lambda block: has_native()),
    },
}


_originals: dict[tuple[Any, str], Any] = {}


def _replace(owner: Any, name: str, substitute: Any) -> None:
    _originals.setdefault((owner, name), getattr(owner, name))
    setattr(owner, name, substitute)


def _replace_methods(cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    for (module, cell_name), methods in cells.items():
        for name, method in methods.items():
            _replace(getattr(importlib.import_module(module), cell_name), name, method)


def install(device: str) -> str | None:
    """Put the substitutes that ``device`` (``Ascend``, ``GPU`` or ``CPU``) needs in place; none on Ascend.

    Returns what keeps the fast operators away from a processor, or None.
    """
    if device == "Ascend":
        uninstall()
        return None
    for function in _MINT:
        _replace(mint, function.__name__, function)
    for function in _MINT_FUNCTIONAL:
        _replace(mint_functional, function.__name__, function)
    _replace(ms.Tensor, "nonzero", tensor_nonzero)
    _replace(div_impl, "divs_op", divide_by_number)
    for cell_name, construct in _MINT_CELLS.items():
        _replace(getattr(mint.nn, cell_name), "construct", construct)
    for (module, cell_name), defaults in _DEFAULTS.items():
        for name, value in defaults.items():
            setattr(getattr(importlib.import_module(module), cell_name), name, value)
    _replace_methods(_MINDONE_CELLS)
    if device != "CPU":
        return None
    trouble = native.load()
    if trouble is None:
        _replace_methods(_NATIVE)
        _replace(mint_functional, "silu", silu)
        _replace(mint_functional, "linear", linear)
        _replace(mint_functional, "layer_norm", layer_norm_native)
    return trouble if native.is_wanted() else None


def has_native() -> bool:
    """Whether the operators of ``native.cpp`` are in place."""
    return (mint.nn.GroupNorm, "construct") in _originals


def uninstall() -> None:
    """Put MindSpore's own operators back."""
    while _originals:
        (owner, name), original = _originals.popitem()
        setattr(owner, name, original)


def missing_precisions(device: str) -> tuple[str, ...]:
    """Precisions for which a device has no convolution or matrix product."""
    return ("bf16",) if device == "CPU" else ()


def installed() -> tuple[str, ...]:
    """Names of the operators that are substituted now, sorted."""
    return tuple(sorted(f"{getattr(owner, '__qualname__', owner.__name__)}.{name}" for owner, name in _originals))


def collectives_are_slow() -> bool:
    """Whether ranks exchange data over sockets, as MindSpore's do on a processor, so that few large messages pay."""
    return ms.get_context("device_target") == "CPU"


def has_fused_attention(device: str) -> bool:
    """Whether mindone's memory-efficient attention has a kernel on a device."""
    return device == "Ascend"

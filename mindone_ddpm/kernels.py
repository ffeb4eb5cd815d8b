"""The only place that knows a device lacks an operator, or has a slow one.

mindone is written for ``mindspore.mint``, whose operators are complete on Ascend alone. :func:`install`
replaces the missing ones, on a CPU or a GPU, by MindSpore's own documented operators with the same meaning,
for graph mode and PyNative alike. On Ascend it does nothing: there mindone's own kernels run.

Every substitute is compared with NumPy, value and gradient, in ``tests/test_kernels.py``.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import mindspore.mint.nn.functional as mint_functional
from mindspore import mint, ops

_nonzero = ops.NonZero()

# --- functions of mindspore.mint --------------------------------------------------------------------------------


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


# --- functions of mindspore.mint.nn.functional -------------------------------------------------------------------


def pad(input, pad, mode="constant", value=None):
    return ops.pad(input, pad, mode, value)


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


# --- methods of mindspore.mint.nn cells. In a graph, the first argument must be called `self`. ---------------------


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


# --- optimiser -----------------------------------------------------------------------------------------------------

_fused_adam = ops.AdamWeightDecay()


def adam_update_fused(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    """One pass over memory where MindSpore has it fused: see :func:`adam_update_plain` for what it computes."""
    return _fused_adam(parameter, moment1, moment2, learning_rate, beta1, beta2, epsilon, weight_decay, gradient)


def adam_update_plain(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    """AdamW's update of one parameter, in place, without bias correction (Loshchilov & Hutter 2019, algorithm 2).

    MindSpore's own AdamWeightDecay takes this form on Ascend. All scalars are float32 tensors of shape ().
    """
    new_moment1 = beta1 * moment1 + (1.0 - beta1) * gradient
    new_moment2 = beta2 * moment2 + (1.0 - beta2) * ops.square(gradient)
    update = new_moment1 / (ops.sqrt(new_moment2) + epsilon) + weight_decay * parameter
    ops.assign(moment1, new_moment1)
    ops.assign(moment2, new_moment2)
    return ops.assign_sub(parameter, learning_rate * update)


def adam_update():
    """The form of AdamW's update for the device at hand."""
    return adam_update_fused if _originals else adam_update_plain


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
_originals: dict[tuple[Any, str], Any] = {}


def _replace(owner: Any, name: str, substitute: Any) -> None:
    _originals.setdefault((owner, name), getattr(owner, name))
    setattr(owner, name, substitute)


def install(device: str) -> None:
    """Put the substitutes that ``device`` (``Ascend``, ``GPU`` or ``CPU``) needs in place; none on Ascend."""
    if device == "Ascend":
        uninstall()
        return
    for function in _MINT:
        _replace(mint, function.__name__, function)
    for function in _MINT_FUNCTIONAL:
        _replace(mint_functional, function.__name__, function)
    _replace(ms.Tensor, "nonzero", tensor_nonzero)
    for cell_name, construct in _MINT_CELLS.items():
        _replace(getattr(mint.nn, cell_name), "construct", construct)


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

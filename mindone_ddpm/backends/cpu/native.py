"""The operators in C++ as MindSpore operators: ``ops.Custom`` over the compiled library, with shapes and gradients.

:func:`load` compiles and loads the library. Without a compiler, or with a MindSpore that brings another oneDNN, it says
so, and MindSpore's own operators do the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from mindone_ddpm.backends.cpu.compiler import compile_library, copy_of, is_wanted, num_threads
from mindone_ddpm.common.environment import onednn_is_limited
from mindone_ddpm.common.errors import first_line
from mindone_ddpm.common.machine import memory_bytes

BF16 = "_bf16"  # ends the names of operators that may round the factors of their products to bf16

_library: Path | None = None  # set where it is loaded


def find_onednn() -> Path | None:
    """The oneDNN that MindSpore brings."""
    return next(iter(sorted((Path(ms.__file__).parent / "lib").glob("libdnnl.so*"))), None)


def load() -> str | None:
    """Compile where necessary, and load. Returns why there are no operators in C++; None where there are."""
    global _library
    if _library is not None:
        return None
    if not is_wanted():
        return "MINDONE_DDPM_NATIVE is 0"
    onednn = find_onednn()
    if onednn is None:
        return "this MindSpore brings no oneDNN"
    try:
        path = compile_library()
        copy = copy_of(onednn) if onednn_is_limited() else None
        start = ctypes.CDLL(str(path)).mindone_ddpm_start
        status = start(str(copy or onednn).encode(), int(copy is not None), num_threads())
        if status != 0:
            return "this MindSpore brings another oneDNN than version 3"
        _library = path
        _make_operators()
    except (OSError, RuntimeError, TypeError) as error:  # the last two: MindSpore takes no library from there
        _library = None
        return first_line(error)
    return None


def library() -> Path | None:
    """The file that the operators come from; None where there are none."""
    return _library


def times() -> dict[str, tuple[int, float]]:
    """Calls and seconds of each operator in C++ since the last call of this."""
    if _library is None:
        return {}
    text = ctypes.create_string_buffer(1 << 16)
    ctypes.CDLL(str(_library)).mindone_ddpm_times(text, ctypes.c_size_t(len(text)))
    rows = [line.split() for line in text.value.decode().splitlines()]
    return {name: (int(calls), float(seconds)) for name, calls, seconds in rows}


_holders = 0  # how many have asked for held weights


@contextlib.contextmanager
def held_weights() -> Iterator[None]:
    """Inside, nobody changes the weights of a whole UNet that is not in training: its convolutions bring them into the
    layout of their products once, and not in each call. That takes up to 1.8 times the memory of these weights, but at
    most a quarter of the machine's: what goes beyond is laid out in each call."""
    global _holders
    if _library is None:
        yield
        return
    hold = ctypes.CDLL(str(_library)).mindone_ddpm_hold_weights
    most_bytes = ctypes.c_size_t(memory_bytes() // 4)
    _holders += 1
    hold(most_bytes)
    try:
        yield
    finally:
        _holders -= 1
        if _holders == 0:
            hold(ctypes.c_size_t(0))


# Set by load(). Functions that MindSpore compiles find them here by name.
group_norm: Any = None
layer_norm: Any = None
silu: Any = None
add_to_channels: Any = None
linear: Any = None
linear_with_bias: Any = None
attention: Any = None
linear_bf16: Any = None
linear_with_bias_bf16: Any = None
attention_bf16: Any = None
transpose: Any = None
sum_of_squares: Any = None
scale_all: Any = None
move_averages: Any = None
adam: Any = None


def operator(name: str, shapes: Any, types: Any, gradient: Any = None, settings: tuple = ()) -> ops.Custom:
    """The operator of that name in the library.

    Args:
        shapes, types: of the outputs, from those of the inputs.
        gradient: from inputs, outputs and the outputs' gradients.
        settings: that tell it from others of the name.
    """
    made = ops.Custom(f"{_library}:{name}", shapes, types, "aot", bprop=gradient)
    # MindSpore remembers the shapes that an operator has given, and knows operators by their attributes.
    made.add_prim_attr("settings", str(settings))
    made.__deepcopy__ = lambda _: made  # a network is copied with what it holds, and this has no state
    return made


def like_first(count: Callable[[int], int] | int) -> Callable[..., Any]:
    """For ``operator``: the types of several outputs, all that of the first input. ``count``: how many, or a function
    of the number of inputs."""

    def types(*given):
        return (given[0],) * (count if isinstance(count, int) else count(len(given)))

    return types


def _like_first(*values):
    return values[0]


def _like_second(*values):
    return values[1]


def _weights_gradient(name: str, has_bias: bool, settings: tuple) -> ops.Custom:
    """The gradient of the weights, and of a bias if there is one, from (gradient of the output, input, weights ...)."""

    def shapes(gradient, x, weight, *_):
        return (weight, weight[:1]) if has_bias else weight

    return operator(name, shapes, like_first(2) if has_bias else _like_first, settings=settings)


def convolution_to_input(
    stride: tuple[int, int],
    padding: tuple[int, int],
    suffix: str = "",
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> tuple[ops.Custom, ms.Tensor]:
    """The gradient of a convolution's input, from (gradient of the output, input, weights, settings); the settings."""
    numbers = (*stride, *padding, *padding, *dilation, groups)
    made = operator(f"conv2d_to_input{suffix}", _like_second, _like_first, settings=numbers)
    return made, ms.Tensor(np.array(numbers, np.int32))


@functools.cache
def convolution(
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    has_bias: bool,
    suffix: str = "",
) -> tuple[ops.Custom, ms.Tensor]:
    """A zero-padded convolution: the operator, and the settings that are its last argument.

    The operator takes float32 input (n, c, h, w), weights (o, c / groups, kh, kw), and bias (o,) if it has one.

    Args:
        suffix: :data:`BF16`, or nothing for products in float32.
    """
    identity = (stride, padding, dilation, groups, has_bias)

    def output_shape(x, weight, *_):
        size = [
            (x[axis + 2] + 2 * padding[axis] - dilation[axis] * (weight[axis + 2] - 1) - 1) // stride[axis] + 1
            for axis in (0, 1)
        ]
        return (x[0], weight[0], *size)

    # Two operators, so that a frozen layer's weights and a first layer's input cost nothing.
    to_input, settings = convolution_to_input(stride, padding, suffix, dilation, groups)
    to_weights = _weights_gradient(f"conv2d_to_weights{suffix}", has_bias, identity)

    def with_bias(x, weight, bias, settings, out, dout):
        dweight, dbias = to_weights(dout, x, weight, settings)
        return to_input(dout, x, weight, settings), dweight, dbias, ops.zeros_like(settings)

    def without_bias(x, weight, settings, out, dout):
        dweight = to_weights(dout, x, weight, settings)
        return to_input(dout, x, weight, settings), dweight, ops.zeros_like(settings)

    gradient = with_bias if has_bias else without_bias
    return operator(f"conv2d{suffix}", output_shape, _like_first, gradient, identity), settings


def _make_linear(has_bias: bool, suffix: str = "") -> ops.Custom:
    def output_shape(x, weight, *_):
        if x[-1] != weight[1]:
            raise ValueError(f"a linear layer for width {weight[1]} was given {tuple(x)}")
        return (*x[:-1], weight[0])

    to_input = operator(f"linear_to_input{suffix}", _like_second, _like_first)
    to_weights = _weights_gradient(f"linear_to_weights{suffix}", has_bias, (has_bias,))

    def with_bias(x, weight, bias, out, dout):
        dweight, dbias = to_weights(dout, x, weight)
        return to_input(dout, x, weight), dweight, dbias

    def without_bias(x, weight, out, dout):
        return to_input(dout, x, weight), to_weights(dout, x, weight)

    gradient = with_bias if has_bias else without_bias
    return operator(f"linear{suffix}", output_shape, _like_first, gradient, (has_bias,))


def _make_attention(suffix: str = "") -> ops.Custom:
    def output_shapes(query, key, value, scale):
        if not (query[0] == key[0] == value[0] and query[2:] == key[2:] == value[2:] and key[1] == value[1]):
            raise ValueError(f"attention was given {tuple(query)}, {tuple(key)} and {tuple(value)}")
        return query, query[:3]

    def gradient_shapes(dout, query, key, value, out, logs, scale):
        return query, key, value

    backward = operator(f"attention_backward{suffix}", gradient_shapes, like_first(3))

    def gradient(query, key, value, scale, out, dout):
        dquery, dkey, dvalue = backward(dout[0], query, key, value, out[0], out[1], scale)
        return dquery, dkey, dvalue, ops.zeros_like(scale)

    return operator(f"attention{suffix}", output_shapes, like_first(2), gradient)


def _make_operators() -> None:
    global group_norm, layer_norm, silu, add_to_channels, linear, linear_with_bias, attention, transpose
    global sum_of_squares, scale_all, move_averages, adam, linear_bf16, linear_with_bias_bf16, attention_bf16

    def norm_shapes(x, gamma, beta, settings):
        if x[1] != gamma[0]:
            raise ValueError(f"a GroupNorm for {gamma[0]} channels was given {tuple(x)}")
        # The number of groups is a value, not a shape: room for as many as there are channels.
        return x, (x[0] * x[1],), (x[0] * x[1],)

    def norm_gradient_shapes(dy, x, gamma, *_):
        return x, gamma, gamma

    norm_backward = operator("group_norm_backward", norm_gradient_shapes, like_first(3))

    def norm_gradient(x, gamma, beta, settings, out, dout):
        dx, dgamma, dbeta = norm_backward(dout[0], x, gamma, beta, out[1], out[2], settings)
        return dx, dgamma, dbeta, ops.zeros_like(settings)

    group_norm = operator("group_norm", norm_shapes, like_first(3), norm_gradient)

    def row_norm_shapes(x, gamma, beta, epsilon):
        if x[-1] != gamma[0]:
            raise ValueError(f"a LayerNorm for width {gamma[0]} was given {tuple(x)}")
        return x, x[:-1], x[:-1]

    row_norm_backward = operator("layer_norm_backward", norm_gradient_shapes, like_first(3))

    def row_norm_gradient(x, gamma, beta, epsilon, out, dout):
        dx, dgamma, dbeta = row_norm_backward(dout[0], x, gamma, out[1], out[2])
        return dx, dgamma, dbeta, ops.zeros_like(epsilon)

    layer_norm = operator("layer_norm", row_norm_shapes, like_first(3), row_norm_gradient)

    silu_backward = operator("silu_backward", _like_first, _like_first)

    def silu_gradient(x, out, dout):
        return (silu_backward(dout, x),)

    silu = operator("silu", _like_first, _like_first, silu_gradient)

    def channels_shape(x, t):
        if tuple(x[:2]) != tuple(t):
            raise ValueError(f"values for channels {tuple(t)} were given {tuple(x)}")
        return x

    sum_of_channels = operator("sum_of_channels", _like_second, _like_first)

    def channels_gradient(x, t, out, dout):
        return dout, sum_of_channels(dout, t)

    add_to_channels = operator("add_to_channels", channels_shape, _like_first, channels_gradient)

    linear, linear_with_bias = _make_linear(False), _make_linear(True)

    attention = _make_attention()
    linear_bf16, linear_with_bias_bf16 = _make_linear(False, BF16), _make_linear(True, BF16)
    attention_bf16 = _make_attention(BF16)

    def swapped_shape(x):
        return x[0], x[2], x[1]

    transpose_backward = operator("transpose", swapped_shape, _like_first)

    def transpose_gradient(x, out, dout):
        return (transpose_backward(dout),)

    transpose = operator("transpose", swapped_shape, _like_first, transpose_gradient)

    def one(*values):
        return (1,)

    def all_but_first(coefficient, *tensors):
        return tensors

    sum_of_squares = operator("sum_of_squares", one, _like_first)
    scale_all = operator("scale_all", all_but_first, all_but_first)
    move_averages, adam = operator("move_averages", one, _like_first), operator("adam", one, _like_first)
    for in_place in (move_averages, adam):
        # They write into their inputs. MindSpore, told so, keeps the order and hands over parameters, not copies.
        in_place.add_prim_attr("side_effect_mem", True)

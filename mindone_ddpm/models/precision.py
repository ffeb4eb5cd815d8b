"""Mixed precision: convolutions and matrix products in half precision; normalisation and softmax in float32.

Parameters stay float32 (master weights). They are cast where they are used, so their gradients are float32; PyTorch's
autocast does the same. Or the layers are given copies in half precision, see :class:`HalfCopies`: then nothing is cast
where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import mint, nn, ops

from mindone_ddpm.common.errors import ConfigError

if TYPE_CHECKING:
    from mindone_ddpm.backends.base import Backend

DTYPES = {"no": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


def half(cell):
    """Weight and bias of a layer in the precision in which it computes."""
    weight, bias = cell.weight, cell.bias
    if cell.weight_copy is not None:
        weight = cell.weight_copy
    if cell.bias_copy is not None:
        bias = cell.bias_copy
    if bias is not None:
        bias = bias.astype(cell.compute_dtype)
    return weight.astype(cell.compute_dtype), bias


_times_transposed = ops.MatMul(transpose_b=True)


def linear(x, weight, bias):
    """``x W^T + b``. On Ascend, mint's linear without a bias transposes the weights by a kernel of its own, and in the
    backward pass the output's gradient; the matrix product of a transposed matrix needs neither."""
    if bias is not None or x.dtype == ms.float32:
        return mint.nn.functional.linear(x, weight, bias)
    return _times_transposed(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], weight.shape[0])


class HalfConv2d(mint.nn.Conv2d):
    """A Conv2d that computes in ``compute_dtype``."""

    def construct(self, input):
        weight, bias = half(self)
        return mint.nn.functional.conv2d(
            input.astype(self.compute_dtype),
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class HalfLinear(mint.nn.Linear):
    """A Linear that computes in ``compute_dtype``."""

    def construct(self, x):
        weight, bias = half(self)
        return linear(x.astype(self.compute_dtype), weight, bias)


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


def freeze(network: nn.Cell) -> None:
    """Train none of a network's parameters."""
    for parameter in network.get_parameters():
        parameter.requires_grad = False


def set_compute_precision(network: nn.Cell, precision: str) -> None:
    """Set the precision in which a network computes, in place. Its parameters keep their names and stay float32.

    Args:
        precision: a key of ``DTYPES``: ``no`` (float32), ``fp16`` or ``bf16``.
    """
    if precision == "no":
        return
    for _, cell in network.cells_and_names():
        # A device's own layers may convert inside their operators, and have float32 outside.
        if hasattr(cell, "compute_inside") and cell.compute_inside(precision):
            continue
        if type(cell) in _HALF:
            cell.__class__ = _HALF[type(cell)]
            cell.compute_dtype = DTYPES[precision]
            if isinstance(cell, (HalfConv2d, HalfLinear)):
                cell.weight_copy = cell.bias_copy = None
        elif hasattr(cell, "compute_dtype"):  # a layer that casts its own weights, such as an AdaptedLinear
            cell.compute_dtype = DTYPES[precision]
        if hasattr(cell, "upcast_softmax"):
            cell.upcast_softmax = True


def check_precision(flag: str, value: str, backend: Backend, names: Mapping[str, str] | None = None) -> None:
    """Raises ConfigError if a device has no kernels for a precision.

    Args:
        flag, value: as the user gave them.
        names: how a precision is called there, where not by its key of ``DTYPES``.
    """
    names = names or {}
    possible = [names.get(precision, precision) for precision in backend.precisions()]
    if value not in possible:
        raise ConfigError(f"{flag} {value}: this {backend.name} has no kernels for it; use {' or '.join(possible)}")


SAMPLING_NAMES = {"no": "float32"}


def set_sampling_dtype(network: nn.Cell, dtype: str, backend: Backend) -> None:
    """Set the precision in which a network computes, as ``sample --dtype`` names it.

    Raises:
        ConfigError: see :func:`check_precision`.
    """
    check_precision("--dtype", dtype, backend, SAMPLING_NAMES)
    set_compute_precision(network, "no" if dtype == "float32" else dtype)


def half_weights(networks: Iterable[nn.Cell]) -> Iterator[tuple[nn.Cell, str]]:
    """The layers of networks that compute in half precision, and the names of their weights, one by one."""
    for network in networks:
        for _, cell in network.cells_and_names():
            for name in ("weight", "bias", "lora_down", "lora_up"):
                has_copy = f"{name}_copy" in cell.__dict__ and getattr(cell, name) is not None
                if has_copy and cell.compute_dtype != ms.float32:
                    yield cell, name


class HalfCopies:
    """Copies in half precision of the weights of layers that compute in it.

    They are not among a network's own parameters: they are neither saved nor loaded.

    Args:
        networks: what :func:`set_compute_precision` has prepared.
    """

    def __init__(self, networks: Iterable[nn.Cell]):
        self.dtype: Any = ms.float16
        self._copies: dict[int, ms.Parameter] = {}
        for cell, name in half_weights(networks):
            self._copy(cell, name)

    def _copy(self, cell: nn.Cell, name: str) -> None:
        parameter = getattr(cell, name)
        if id(parameter) not in self._copies:
            self.dtype = cell.compute_dtype
            values = ms.Tensor(parameter.asnumpy()).astype(cell.compute_dtype)
            self._copies[id(parameter)] = ms.Parameter(values, name=f"half{len(self._copies)}.{parameter.name}")
        object.__setattr__(cell, f"{name}_copy", self._copies[id(parameter)])

    def has(self, parameter: ms.Parameter) -> bool:
        return id(parameter) in self._copies

    def of(self, parameter: ms.Parameter) -> ms.Parameter:
        """The copy of a parameter."""
        return self._copies[id(parameter)]

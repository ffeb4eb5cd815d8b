"""The operators of an update as one operator in C++ each, over all parameters at once, in float32."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from mindone_ddpm.backends.base import (
    AdamUpdate,
    Measure,
    MoveAverages,
    Parameters,
    Rescale,
    ema_plain,
    gradients_plain,
)
from mindone_ddpm.backends.cpu import native
from mindone_ddpm.backends.substitutes import adamw_fused


def measure_native(gradients):
    """See :class:`mindone_ddpm.backends.base.Measure`."""
    squares = native.sum_of_squares(*gradients)[0]
    return squares, ops.isfinite(squares)


def rescale_native(gradients, coefficient, finite):
    """See :class:`mindone_ddpm.backends.base.Rescale`."""
    return native.scale_all(ops.select(finite, coefficient, ops.zeros_like(coefficient)), *gradients)


def move_averages_native(share, averages, parameters):
    """See :class:`mindone_ddpm.backends.base.MoveAverages`."""
    return native.move_averages(share.reshape(1), *averages, *parameters)


def adam_native(numbers, parameters, moments1, moments2, gradients):
    """See :class:`mindone_ddpm.backends.base.AdamUpdate`."""
    return native.adam(ops.stack(numbers), *parameters, *moments1, *moments2, *gradients)


def is_for_native(parameters: Parameters) -> bool:
    """Whether one operator can take all of these parameters, or their gradients."""
    are_float32 = all(parameter.dtype == ms.float32 for parameter in parameters)
    return native.library() is not None and len(parameters) > 1 and are_float32


def gradients(parameters: Parameters) -> tuple[Measure, Rescale]:
    return (measure_native, rescale_native) if is_for_native(parameters) else gradients_plain(parameters)


def ema(parameters: Parameters) -> MoveAverages:
    return move_averages_native if is_for_native(parameters) else ema_plain(parameters)


def adamw(parameters: Parameters) -> AdamUpdate:
    return adam_native if is_for_native(parameters) else adamw_fused(parameters)

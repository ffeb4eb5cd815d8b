"""Ascend NPUs: nothing is substituted. MindSpore's and mindone's own operators run."""

from __future__ import annotations

import os
import re

import mindspore as ms
from mindspore import mint, ops

from mindone_ddpm.backends.base import (
    AdamUpdate,
    Backend,
    Measure,
    Parameters,
    Rescale,
    adam_of_each,
    ema_plain,
    gradients_plain,
    rescale_plain,
)
from mindone_ddpm.common.files import cache_dir
from mindone_ddpm.common.machine import cpu_features


def measure_ieee(gradients):
    """See :class:`Measure`. Infinities and NaN reach the norm, so it alone is checked."""
    (vector,) = gradients
    squares = ops.square(mint.norm(vector))
    return squares, ops.isfinite(squares)


def computes_infinities() -> bool:
    """Whether this NPU computes infinities and NaN as in IEEE 754. Others saturate at the largest number and note it in
    a register, which ``mindspore.amp.all_finite`` reads."""
    if os.environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE") == "SATURATION_MODE":
        return False
    return re.match(r"Ascend910(B\d|_9)", ms.hal.get_device_name(0)) is not None  # Atlas A2 and A3


def gradients_fused(parameters: Parameters) -> tuple[Measure, Rescale]:
    if len(parameters) == 1 and computes_infinities():
        return measure_ieee, rescale_plain
    return gradients_plain(parameters)


_apply_adam = ops.Adam()


def _adam(learning_rate, beta1, beta2, epsilon, weight_decay, parameter, moment1, moment2, gradient):
    # The weights decay first: the moments do not depend on them. But not before the gradient is there. In place: the
    # product would be one more copy of all weights, and MindSpore would make another of what it is made from.
    # The operator's own bias correction is switched off by powers of beta that are 0: the numbers have it already.
    decayed = parameter.mul_(ops.depend(1.0 - learning_rate * weight_decay, gradient))
    zero = ops.depend(ms.Tensor(0.0, ms.float32), decayed)
    numbers = (zero, zero, learning_rate, beta1, beta2, epsilon)
    return _apply_adam(parameter, moment1, moment2, *numbers, gradient)[0]


def adam_fused(numbers, parameters, moments1, moments2, gradients):
    """See :class:`AdamUpdate`. One operator reads and writes weights and moments."""
    return adam_of_each(_adam, numbers, parameters, moments1, moments2, gradients)


def adamw_fused(parameters: Parameters) -> AdamUpdate:
    return adam_fused


def install() -> None:
    """Keep MindSpore from making its folder for data moved off the device, which stays empty, where the user works."""
    context = getattr(ms._c_expression, "OffloadContext", None)  # there is no public way
    if context is not None:
        context.get_instance().set_offload_path(f"{cache_dir() / 'offload'}/")


BACKEND = Backend(
    name="Ascend",
    default_precision="fp16",
    precisions=lambda: ("no", "fp16", "bf16"),
    caches_graphs=False,
    fused_attention=True,
    flat_weights=True,
    gradients=gradients_fused,
    adamw=adamw_fused,
    ema=ema_plain,
    install=install,
    graph_facts=lambda: {"cpu": cpu_features()},
    counts_memory=True,
)

"""What a training step takes of the device's memory: measured where the device counts it, else estimated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mindspore as ms

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.models.memory import MemoryUse, estimate_activations
from mindone_ddpm.models.precision import half_weights
from mindone_ddpm.training.optimizers import is_elementwise
from mindone_ddpm.training.run import Training

GIB, MIB = 2**30, 2**20
DEVICE_SIZES_GIB = (32, 64)
# Of a device's memory: the rest is for the driver, the workspaces of CANN's kernels, HCCL's buffers and fragmentation.
USABLE_SHARE = 0.9
NETWORKS = ("UNet2DModel", "UNet2DConditionModel")
UNUSED_WEIGHTS = (".vae.decoder.", ".vae.post_quant_conv.")  # they are not in the train step


def describe_memory(training: Training) -> dict[str, str]:
    """Lines for the plan, by heading: what a step takes, and which devices have that much."""
    use = estimated = estimate(training)
    source = f"estimated for Ascend with precision {training.config.mixed_precision}"
    if training.runtime.backend.counts_memory:
        try:
            use, source = measure(training), "as allocated in one step"
            if estimated is not None:
                source += f" (by formula {_size(estimated.peak)})"
        except (UserError, RuntimeError) as error:
            source = f"estimated, because no step could be run ({first_line(error)})"
    if use is None:
        return {"peak memory": "not estimated for this network"}
    enough = [f"{size} GiB: {'enough' if is_enough(use, size) else 'too little'}" for size in DEVICE_SIZES_GIB]
    return {
        "parameters": _size(use.parameters),
        "optimizer": _size(use.optimizer),
        "EMA": _size(use.ema) if use.ema else "none",
        "activations": _size(use.activations),
        "peak memory": f"{_size(use.peak)}, {source}; {', '.join(enough)}",
    }


def is_enough(use: MemoryUse, device_gib: float) -> bool:
    """Whether a device with so many GiB can run the step."""
    return use.peak <= USABLE_SHARE * device_gib * GIB


def measure(training: Training) -> MemoryUse:
    """Compile the step, run it once and ask MindSpore's allocator. The weights are no longer the initial ones after it.

    Raises:
        UserError, RuntimeError: the step cannot be run; RuntimeError where the device has not enough memory.
    """
    training.step(next(training.windows(0)))
    ms.runtime.synchronize()
    return _use(training, peak=float(ms.runtime.max_memory_allocated()))


def estimate(training: Training) -> MemoryUse | None:
    """By the formula of :mod:`mindone_ddpm.models.memory`; None where it does not know the network."""
    cells = (cell for _, cell in training.step_cell.cells_and_names())
    unet = next((cell for cell in cells if type(cell).__name__ in NETWORKS), None)
    if unet is None:
        return None
    config = training.config
    half, flat = config.mixed_precision != "no", is_elementwise(config.optimizer)
    try:
        activations = estimate_activations(unet, config.train_batch_size, half, config.gradient_checkpointing, flat)
    except AttributeError:  # it has blocks of a kind that the presets and Stable Diffusion do not have
        return None
    return _use(training, activations=activations)


def _use(training: Training, activations: float = 0.0, peak: float | None = None) -> MemoryUse:
    """The parts of a step's memory, from the total or from what is not always there."""
    step = training.step_cell
    slots = [slot for slots in training.update.optimizer.slots().values() for slot in slots]
    sums = list(step.gradient_sums) if step.accumulates else []
    averages = [one for average in training.update.averages for one in average.averages]
    parameters, optimizer, ema = _weights(training), _bytes([*slots, *sums]), _bytes(averages)
    always = parameters + optimizer + ema
    total = always + activations if peak is None else peak
    return MemoryUse(parameters, optimizer, ema, activations=total - always, peak=total)


def _weights(training: Training) -> float:
    """Bytes of all weights in a step on Ascend. Of frozen ones that are used in half precision, only the copies are on
    the device."""
    model = training.step_cell.model
    trained = training.job.trainable().values()
    frozen = [
        parameter
        for name, parameter in model.parameters_and_names()
        if not parameter.requires_grad and not any(unused in name for unused in UNUSED_WEIGHTS)
    ]
    halves = set()
    if is_elementwise(training.config.optimizer):
        halves = {id(getattr(cell, name)) for cell, name in half_weights([model])}
    copied = [parameter for parameter in trained if id(parameter) in halves]
    in_half = [parameter for parameter in frozen if id(parameter) in halves]
    in_full = [parameter for parameter in frozen if id(parameter) not in halves]
    return _bytes([*trained, *in_full]) + (_bytes(copied) + _bytes(in_half)) / 2


def _bytes(parameters: Iterable[Any]) -> float:
    return float(sum(parameter.size * parameter.itemsize for parameter in parameters))


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"

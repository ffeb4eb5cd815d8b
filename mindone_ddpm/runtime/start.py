"""The machine: environment, device choice, execution mode, and quiet.

:func:`prepare_environment` must run before MindSpore is imported; the package's ``__init__`` sees to it. Everything
that imports MindSpore does so inside a function, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from dataclasses import dataclass

from mindone_ddpm.backends.base import Backend
from mindone_ddpm.backends.choose import choose
from mindone_ddpm.backends.cpu.rendezvous import Meeting
from mindone_ddpm.backends.gpu import cuda
from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import cache_dir
from mindone_ddpm.common.libraries import quiet_imports, quiet_libraries


class DeviceError(UserError):
    """The machine cannot do what was asked; the message is one line for the user."""


@dataclass(frozen=True)
class Runtime:
    """Where a job runs. ``rank`` counts all processes from 0, ``local_rank`` those of this machine."""

    backend: Backend
    mode: str
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    meeting: Meeting | None = None  # where the device's collectives do not wait long enough

    @property
    def device(self) -> str:
        return self.backend.name

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def available_devices() -> list[str]:
    """The devices that MindSpore can drive and that are really there, best first."""
    devices = []
    if glob.glob("/dev/davinci[0-9]*"):
        devices.append("Ascend")
    if os.path.exists("/dev/nvidiactl") and os.path.exists("/dev/nvidia0"):
        devices.append("GPU")
    return [*devices, "CPU"]


def max_local_ranks() -> int | None:
    """The NPUs of this machine, one for each rank; None where ranks share the processor."""
    return len(glob.glob("/dev/davinci[0-9]*")) or None


def start(
    device: str, mode: str, seed: int, deterministic: bool = False, max_device_memory_gib: int | None = None
) -> Runtime:
    """Import MindSpore, choose the device and the mode, seed it, and put the device's substitutes in place.

    Args:
        device: ``auto``, ``Ascend``, ``GPU`` or ``CPU``.
        mode: ``graph`` or ``pynative``.
        seed: for the initial weights.
        deterministic: have MindSpore choose kernels that give the same bits in every run.
        max_device_memory_gib: what MindSpore may take of the device's memory; all of it if None.

    Raises:
        DeviceError: the device is not there, or MindSpore cannot drive it.
    """
    present = available_devices()
    if device != "auto" and device not in present:
        raise DeviceError(f"--device {device}: not found on this machine; there is {' and '.join(present)}")
    chosen = _take_device(present if device == "auto" else [device])
    import mindspore as ms

    if deterministic:
        ms.set_deterministic(True)
    if max_device_memory_gib is not None:
        ms.runtime.set_memory(max_size=f"{max_device_memory_gib}GB")
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    ms.set_seed(seed)
    from mindone_ddpm.backends import kernels

    with quiet_imports():
        trouble = kernels.install(chosen)
    if trouble is not None and is_main_by_environment():
        print(
            f"note: without the fast operators for this processor ({trouble}) a step takes two to three times as long",
            file=sys.stderr,
        )
    quiet_libraries()
    if not launched_by_msrun():
        return Runtime(choose(chosen), mode)
    rank, world_size = _join_cluster()
    meeting = None
    if chosen == "CPU" and world_size > 1:
        host = os.environ.get("MS_SCHED_HOST", "127.0.0.1")
        meeting = Meeting(
            rank, world_size, host, lambda row: ms.ops.Broadcast(0)((ms.Tensor(row, ms.float32),))[0].asnumpy()
        )
    return Runtime(choose(chosen), mode, rank, world_size, int(os.environ.get("DEVICE_ID", "0")), meeting)


def _take_device(candidates: list[str]) -> str:
    """Give MindSpore the first of some devices that it can use.

    Raises:
        DeviceError: it can use none of them.
    """
    for number, candidate in enumerate(candidates):
        reason = _try_device(candidate)
        if reason is None:
            return candidate
        if number < len(candidates) - 1 and is_main_by_environment():
            following = candidates[number + 1]
            print(f"note: MindSpore cannot use {candidate} ({reason}); taking {following}", file=sys.stderr)
    raise DeviceError(f"--device {candidate}: MindSpore cannot use it ({reason})")


def _try_device(device: str) -> str | None:
    """Import MindSpore and give it a device; why it cannot use it, or None."""
    surroundings: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if device == "GPU":
        trouble = cuda.trouble()
        if trouble is not None:
            return "; ".join(trouble)
        surroundings = cuda.environment(cache_dir())
    with surroundings, quiet_imports():
        import mindspore as ms

        try:
            ms.set_device(device)
        except (RuntimeError, ValueError) as error:
            return first_line(error)
    return None


def launched_by_msrun() -> bool:
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")


def is_main_by_environment() -> bool:
    """Whether this is the main rank, as far as msrun's environment tells: for who has no :class:`Runtime`."""
    return os.environ.get("RANK_ID", "0") == "0"


def _join_cluster() -> tuple[int, int]:
    """Meet the other ranks; rank and world size. In msrun's scheduler process this does not return: it ends with the
    job.

    Raises:
        DeviceError: the ranks did not come together.
    """
    import mindspore as ms
    from mindspore import communication

    try:
        communication.init()
    except RuntimeError as error:
        raise DeviceError(f"this rank could not join the others ({first_line(error)})") from error
    world_size = communication.get_group_size()
    if world_size > 1:
        ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=False)
    return communication.get_rank(), world_size

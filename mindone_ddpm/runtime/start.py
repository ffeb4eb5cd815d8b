"""The start of a job on this machine: device, execution mode, seed, ranks.

Does not import MindSpore before :func:`start` is called, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mindone_ddpm.backends.choose import available_devices, choose
from mindone_ddpm.backends.gpu import cuda
from mindone_ddpm.common.errors import ConfigError, UserError, first_line
from mindone_ddpm.common.files import cache_dir
from mindone_ddpm.common.libraries import quiet_imports, quiet_libraries
from mindone_ddpm.runtime import launchers

if TYPE_CHECKING:
    from mindone_ddpm.backends.base import Backend, Rendezvous


class DeviceError(UserError):
    """The machine cannot do what was asked; the message is one line for the user."""


@dataclass(frozen=True)
class Runtime:
    """Where a job runs.

    Attributes:
        backend: of the device; chosen once, by :func:`start`.
        mode: ``graph`` or ``pynative``.
        rank: of this process among all, from 0.
        world_size: the number of processes.
        local_rank: of this process among those of this machine, from 0.
        makes_data: whether a job may make data that it needs; not in a dry run.
        rendezvous: where ranks wait for each other, if the device's collectives do not wait long enough.
    """

    backend: Backend
    mode: str
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    rendezvous: Rendezvous | None = None
    makes_data: bool = True

    @property
    def device(self) -> str:
        """The device's name, for messages and records."""
        return self.backend.name

    @property
    def is_main(self) -> bool:
        return self.rank == 0


_running: Runtime | None = None  # what start returned last


def start_once(device: str = "auto", mode: str | None = None) -> Runtime:
    """The runtime of this process. It is started if nobody has, or if another device or mode is asked for.

    Args:
        device: ``auto`` keeps the one in use.
        mode: None keeps the one in use; at first it is ``graph``.

    Raises:
        DeviceError: see :func:`start`.
    """
    if _running is None:
        return start(device, mode or "graph", seed=0)
    if device in ("auto", _running.device) and mode in (None, _running.mode):
        return _running
    return start(_running.device if device == "auto" else device, mode or _running.mode, seed=0)


def start(
    device: str,
    mode: str,
    seed: int,
    deterministic: bool = False,
    max_device_memory_gib: int | None = None,
    jit_level: str = "auto",
    alone: bool = False,
) -> Runtime:
    """Import MindSpore, choose the device and the mode, seed it, and put the device's substitutes in place.

    Args:
        device: ``auto``, ``Ascend``, ``GPU`` or ``CPU``.
        mode: ``graph`` or ``pynative``.
        seed: for the initial weights.
        deterministic: have MindSpore choose kernels that give the same bits in every run.
        max_device_memory_gib: what MindSpore may take of the device's memory; all of it if None.
        jit_level: ``O0`` or ``O1``; with ``auto`` MindSpore chooses.
        alone: several ranks would all do the same, into one folder.

    Raises:
        ConfigError: this is one of several ranks, and must be alone or cannot find the others.
        DeviceError: the device is not there, or MindSpore cannot use it.
    """
    launchers.adopt_launcher()
    if alone and int(os.environ.get("MS_WORKER_NUM", "1")) > 1 and launchers.launched():
        raise ConfigError(f"this runs on one rank, and was started as {os.environ['MS_WORKER_NUM']} ranks")
    limit_cores_of_rank()
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
    if jit_level != "auto":
        ms.set_context(jit_config={"jit_level": jit_level})
    ms.set_seed(seed)
    backend = choose(chosen)
    trouble = backend.install()
    if trouble is not None and is_main_by_environment():
        print(
            f"note: without the fast operators for this CPU ({trouble}) a step takes three to five times as long",
            file=sys.stderr,
        )
    quiet_libraries()
    global _running
    if not launchers.launched():
        _running = Runtime(backend, mode)
        return _running
    rank, world_size = _join_cluster()
    rendezvous = None
    if backend.rendezvous is not None and world_size > 1:
        rendezvous = backend.rendezvous(rank, world_size, os.environ.get("MS_SCHED_HOST", "127.0.0.1"), _from_main)
    ranks = launchers.adopted()
    local_rank = int(os.environ.get("DEVICE_ID", "0")) if ranks is None else ranks.local_rank
    _running = Runtime(backend, mode, rank, world_size, local_rank, rendezvous)
    return _running


def limit_cores_of_rank() -> None:
    """Give each of the ranks that share a CPU cores of its own: otherwise each spreads its threads over all of them.

    The launcher says in ``MINDONE_DDPM_LOCAL_RANKS`` how many there are. With NPUs, msrun's ``--bind_core`` knows which
    cores are near which.
    """
    ranks, rank = os.environ.pop("MINDONE_DDPM_LOCAL_RANKS", None), os.environ.get("DEVICE_ID")  # once a process
    if ranks is None or rank is None or os.environ.get("MS_ROLE") != "MS_WORKER":
        return
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // int(ranks)
    if share == 0 or share == len(cores):
        return
    first = int(rank) % int(ranks) * share
    for thread in os.listdir("/proc/self/task"):  # libraries that are imported already have started some
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread), cores[first : first + share])


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
    """Import MindSpore and give it a device. Returns why it cannot use it, or None."""
    environment: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if device == "GPU":
        trouble = cuda.trouble()
        if trouble is not None:
            return "; ".join(trouble)
        environment = cuda.environment(cache_dir())
    with environment, quiet_imports():
        import mindspore as ms

        try:
            ms.set_device(device)
        except (RuntimeError, ValueError) as error:
            return first_line(error)
    return None


def is_main_by_environment() -> bool:
    """Whether this is the main rank according to the environment, where there is no :class:`Runtime` yet."""
    return os.environ.get("RANK_ID", "0") == "0"


def _from_main(values: list[int]) -> Sequence[float]:
    """The main rank's integers below 2^24, on every rank."""
    import mindspore as ms

    return ms.ops.Broadcast(0)((ms.Tensor(values, ms.float32),))[0].asnumpy().tolist()


def _join_cluster() -> tuple[int, int]:
    """Wait for the other ranks. Returns rank and world size. In msrun's scheduler process this does not return: it ends
    with the job.

    Raises:
        DeviceError, SchedulerError: the ranks could not connect.
    """
    from mindspore import communication

    launchers.start_scheduler()
    try:
        communication.init()
    except RuntimeError as error:
        ranks = launchers.adopted()
        reason = first_line(error)
        if ranks is not None:
            reason += f"; rank {ranks.rank} of {ranks.size} by {ranks.source}"
        raise DeviceError(f"this rank could not join the others ({reason})") from error
    world_size = communication.get_group_size()
    return communication.get_rank(), world_size

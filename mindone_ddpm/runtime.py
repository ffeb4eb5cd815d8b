"""The machine: environment, device choice, execution mode, and quiet.

:func:`prepare_environment` must run before MindSpore is imported; the package's ``__init__`` sees to it. Everything
that imports MindSpore does so inside a function, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import _thread
import contextlib
import glob
import importlib.metadata
import io
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mindone_ddpm
from mindone_ddpm import cuda, lazy_imports
from mindone_ddpm.config import Problem, first_line
from mindone_ddpm.rendezvous import Meeting

# In the environment where the limit on oneDNN's instructions is this package's, not the user's.
LIMITED = "MINDONE_DDPM_LIMITS_ONEDNN"


class RuntimeProblem(Problem):
    """The machine cannot do what was asked; the message is one line for the user."""


@dataclass(frozen=True)
class Runtime:
    """Where a job runs. ``rank`` counts all processes from 0, ``local_rank`` those of this machine."""

    device: str
    mode: str
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    meeting: Meeting | None = None  # where the device's collectives do not wait long enough

    @property
    def default_precision(self) -> str:
        """Half precision where the hardware is made for it."""
        return "no" if self.device == "CPU" else "fp16"

    @property
    def caches_graphs(self) -> bool:
        """Whether compiled graphs are kept unless something else is asked for."""
        return self.device == "CPU"

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def prepare_environment() -> None:
    """Set what MindSpore and its company read when they are imported; a user's own settings win."""
    _take_own_cores()
    if _onednn_picks_slow_convolutions() and "ONEDNN_MAX_CPU_ISA" not in os.environ:
        os.environ.update({"ONEDNN_MAX_CPU_ISA": "AVX2", LIMITED: "1"})
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's C++ side: errors only
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "None of PyTorch, ... found"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    lazy_imports.install()


def onednn_is_limited() -> bool:
    """Whether :func:`prepare_environment`, here or in a process above, limits oneDNN; not if the user does."""
    return LIMITED in os.environ


def _take_own_cores() -> None:
    """Ranks that share a processor get cores of their own: otherwise each spreads its threads over all of them.

    The launcher says in ``MINDONE_DDPM_LOCAL_RANKS`` how many there are. With NPUs, msrun's ``--bind_core`` knows which
    cores are near which.
    """
    ranks, rank = int(os.environ.get("MINDONE_DDPM_LOCAL_RANKS", "1")), os.environ.get("DEVICE_ID")
    cores = sorted(os.sched_getaffinity(0))
    if os.environ.get("MS_ROLE") == "MS_WORKER" and rank is not None and 1 < ranks <= len(cores):
        share = len(cores) // ranks
        first = int(rank) % ranks * share
        os.sched_setaffinity(0, cores[first : first + share])


def _onednn_picks_slow_convolutions() -> bool:
    """MindSpore 2.9 and 2.10 carry oneDNN 3.10, which takes a reference convolution on AVX-512 processors,
    about a hundred times slower than the AVX2 one."""
    try:
        version = importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return False
    major, minor = (int(part) for part in version.split(".")[:2])
    return platform.machine() in ("x86_64", "AMD64") and (major, minor) >= (2, 9)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Hold back what the libraries underneath say while they are imported; exceptions pass."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def quiet_libraries() -> None:
    """Silence the loggers and warnings that carry no news for the user."""
    for name in ("mindone", "mindspore", "transformers", "datasets", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    from mindone.diffusers.utils import logging as mindone_logging

    mindone_logging.disable_progress_bar()


def cache_dir() -> Path:
    """Where what is made once and used again is kept: ``MINDONE_DDPM_CACHE``, or a folder of the user's cache."""
    given = os.environ.get("MINDONE_DDPM_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindone_ddpm"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"mindone_ddpm-{os.getuid()}"


def versions() -> dict[str, str]:
    """Of this package, Python, and the packages that the figures of a run depend on."""
    names = ("mindspore", "mindone", "numpy", "datasets", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"mindone_ddpm": mindone_ddpm.__version__, "python": platform.python_version(), **found}


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
        RuntimeProblem: the device is not there, or MindSpore cannot drive it.
    """
    present = available_devices()
    if device != "auto" and device not in present:
        raise RuntimeProblem(f"--device {device}: not found on this machine; there is {' and '.join(present)}")
    chosen = _take_device(present if device == "auto" else [device])
    import mindspore as ms

    if deterministic:
        ms.set_deterministic(True)
    if max_device_memory_gib is not None:
        ms.runtime.set_memory(max_size=f"{max_device_memory_gib}GB")
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    ms.set_seed(seed)
    from mindone_ddpm import kernels

    with quiet_imports():
        trouble = kernels.install(chosen)
    if trouble is not None and is_main_by_environment():
        print(
            f"note: without the fast operators for this processor ({trouble}) a step takes two to three times as long",
            file=sys.stderr,
        )
    quiet_libraries()
    if not launched_by_msrun():
        return Runtime(device=chosen, mode=mode)
    rank, world_size = _join_cluster()
    meeting = None
    if chosen == "CPU" and world_size > 1:
        host = os.environ.get("MS_SCHED_HOST", "127.0.0.1")
        meeting = Meeting(
            rank, world_size, host, lambda row: ms.ops.Broadcast(0)((ms.Tensor(row, ms.float32),))[0].asnumpy()
        )
    return Runtime(chosen, mode, rank, world_size, int(os.environ.get("DEVICE_ID", "0")), meeting)


def _take_device(candidates: list[str]) -> str:
    """Give MindSpore the first of some devices that it can use.

    Raises:
        RuntimeProblem: it can use none of them.
    """
    for number, candidate in enumerate(candidates):
        reason = _try_device(candidate)
        if reason is None:
            return candidate
        if number < len(candidates) - 1 and is_main_by_environment():
            following = candidates[number + 1]
            print(f"note: MindSpore cannot use {candidate} ({reason}); taking {following}", file=sys.stderr)
    raise RuntimeProblem(f"--device {candidate}: MindSpore cannot use it ({reason})")


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
        RuntimeProblem: the ranks did not come together.
    """
    import mindspore as ms
    from mindspore import communication

    try:
        communication.init()
    except RuntimeError as error:
        raise RuntimeProblem(f"this rank could not join the others ({first_line(error)})") from error
    world_size = communication.get_group_size()
    if world_size > 1:
        ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=False)
    return communication.get_rank(), world_size


class InterruptWatch:
    """Waits for SIGINT in a thread of its own.

    While a graph runs, MindSpore turns SIGINT into SIGTERM, so that a handler could not tell Ctrl-C from a preemption.
    Blocked before MindSpore starts its threads, SIGINT reaches nobody but the one who waits for it.
    """

    def __init__(self) -> None:
        self.receiver: Callable[[int], None] | None = None
        self.started = False
        self.count = 0

    def start(self) -> None:
        """Call it first thing in a program's main thread."""
        if self.started or threading.current_thread() is not threading.main_thread():
            return
        self.started = True
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=self._wait, daemon=True, name="interrupt watch").start()

    def _wait(self) -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            self.count += 1
            if self.receiver is not None:
                self.receiver(signal.SIGINT)
            elif self.count == 1:
                _thread.interrupt_main()  # a KeyboardInterrupt in the main thread
            else:
                os._exit(128 + signal.SIGINT)


interrupt_watch = InterruptWatch()

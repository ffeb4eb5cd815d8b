"""Which devices this machine has, and the :class:`Backend` of each. Does not import MindSpore before it is asked."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindone_ddpm.backends.base import Backend

CPU_FOLDER = "mindone_ddpm.backends.cpu"


def npu_files() -> list[str]:
    """The device files of this machine's NPUs. ``MINDONE_DDPM_NPU_FOLDER`` names another folder than ``/dev``."""
    return glob.glob(os.path.join(os.environ.get("MINDONE_DDPM_NPU_FOLDER", "/dev"), "davinci[0-9]*"))


def available_devices() -> list[str]:
    """The devices that MindSpore can drive and that this machine has, best first."""
    devices = []
    if npu_files():
        devices.append("Ascend")
    if os.path.exists("/dev/nvidiactl") and os.path.exists("/dev/nvidia0"):
        devices.append("GPU")
    return [*devices, "CPU"]


def max_local_ranks() -> int | None:
    """The number of NPUs of this machine, one for each rank; None where ranks share the CPU."""
    return len(npu_files()) or None


def has_cpu_operators() -> bool:
    """Whether this copy of the package has ``backends/cpu``: the folder may be deleted."""
    return importlib.util.find_spec(CPU_FOLDER) is not None


def prepare(device: str) -> None:
    """Begin what takes long and needs no MindSpore, while MindSpore is imported. ``device``: a name, or ``auto``."""
    if "CPU" in (device, available_devices()[0]) and has_cpu_operators():
        importlib.import_module(f"{CPU_FOLDER}.compiler").compile_in_background()


def choose(device: str) -> Backend:
    """The backend of ``Ascend``, ``GPU`` or ``CPU``. Imports MindSpore."""
    if device == "Ascend":
        from mindone_ddpm.backends import ascend

        return ascend.BACKEND
    if device == "CPU" and has_cpu_operators():
        return importlib.import_module(f"{CPU_FOLDER}.backend").BACKEND
    from mindone_ddpm.backends import substitutes

    return substitutes.GPU if device == "GPU" else substitutes.CPU

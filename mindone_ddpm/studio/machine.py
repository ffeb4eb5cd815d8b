"""How busy the machine is: processor, memory, disk, and what the device's own program says."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

# What shows the load of an NPU or a GPU, in a form for people. It is shown as it is.
DEVICE_PROGRAMS = (
    ["npu-smi", "info"],
    ["nvidia-smi", "--query-gpu=index,name,utilization.gpu,memory.used,memory.total,temperature.gpu", "--format=csv"],
)
TIMEOUT_S = 10
SHORTEST_S = 1.0  # between measurements
KEPT_S = 5.0  # an answer of the device's program
MOST_CHARACTERS = 8000


class Machine:
    """Asks at most every few seconds, however many pages are open."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._asked = 0.0
        self._said = ""
        self._times, self._percent, self._measured = processor_times(), 0.0, time.monotonic()
        self._lock = threading.Lock()

    def load(self) -> dict[str, Any]:
        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self.folder)
        return {
            "processor_percent": self._processor(),
            "cores": psutil.cpu_count() or 1,
            "memory_used": memory.total - memory.available,
            "memory_total": memory.total,
            "disk_free": disk.free,
            "disk_total": disk.total,
            "device": self._device(),
        }

    def _processor(self) -> float:
        """Of all cores, since the last measurement. (psutil's own percentages are kept apart for each thread.)"""
        with self._lock:
            if time.monotonic() - self._measured >= SHORTEST_S:
                idle, total = (now - before for now, before in zip(processor_times(), self._times, strict=True))
                self._times, self._measured = processor_times(), time.monotonic()
                self._percent = min(100.0, max(0.0, 100.0 * (1 - idle / total))) if total > 0 else 0.0
            return self._percent

    def _device(self) -> str:
        with self._lock:
            if time.monotonic() - self._asked > KEPT_S or not self._asked:
                self._said = ask_device()
                self._asked = time.monotonic()
            return self._said


def processor_times() -> tuple[float, float]:
    """Seconds in which the processor had nothing to do, and all seconds, summed over the cores."""
    times = psutil.cpu_times()
    return times.idle + getattr(times, "iowait", 0.0), sum(times)


def ask_device() -> str:
    """What the first of the programs says that is installed; empty where none is, or it fails."""
    for command in DEVICE_PROGRAMS:
        if shutil.which(command[0]) is None:
            continue
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace")
        except (OSError, subprocess.TimeoutExpired):
            continue
        if result.returncode == 0:
            return result.stdout[:MOST_CHARACTERS].strip()
    return ""

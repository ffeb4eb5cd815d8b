"""What both sides measure with; imports neither MindSpore nor PyTorch."""

from __future__ import annotations

import resource
import time
from typing import Any


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_seconds(function: Any) -> float:
    """Of all threads of this process: what is left to compare with when other programs share the cores."""
    started = time.process_time()
    function()
    return time.process_time() - started


def timed(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started

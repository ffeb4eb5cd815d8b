"""What both sides measure with; imports neither MindSpore nor PyTorch."""

from __future__ import annotations

import resource
import time
from typing import Any


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started

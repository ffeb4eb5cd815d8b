"""What this machine's CPU is."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_features() -> str:
    """The CPU's model and instruction sets: what is compiled for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    # Each core repeats them.
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))

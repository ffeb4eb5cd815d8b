"""What this machine's CPU is, and how much a process may use of its memory."""

from __future__ import annotations

import contextlib
import platform
import resource
from pathlib import Path

from mindone_ddpm.common.errors import UserError


def cpu_features() -> str:
    """The CPU's model and instruction sets: what is compiled for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    # Each core repeats them.
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))


def memory_bytes() -> int:
    """The memory of this machine, or what its control group may have of it where that is less."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError):
            text = Path(path).read_text().strip()
            return min(total, int(text)) if text.isdigit() else total
    return total


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16 by instructions of its own: AVX-512's, or AMX."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_features().split())


LEAST_ADDRESS_SPACE_GIB = 6  # MindSpore reserves some 5 GiB for the smallest model; with 1.5 it aborts when imported


def check_address_space() -> None:
    """Raises UserError where the shell's limit leaves MindSpore too little to start."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE_GIB << 30:
        raise UserError(
            f"the address space is limited to {limit / 2**30:.1f} GiB (ulimit -v); MindSpore needs at least "
            f"{LEAST_ADDRESS_SPACE_GIB}, most of which it never uses: ulimit -v unlimited"
        )

"""The machine: environment, device choice, execution mode, and quiet.

:func:`prepare_environment` must run before MindSpore is imported; the package's ``__init__`` sees to it. Everything
that imports MindSpore does so inside a function, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform

from mindone_ddpm.runtime import lazy_imports

# In the environment where the limit on oneDNN's instructions is this package's, not the user's.
LIMITED = "MINDONE_DDPM_LIMITS_ONEDNN"


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

"""Environment variables that MindSpore and the libraries around it read when they are imported.

``import mindone_ddpm`` changes nothing. A folder of this package whose modules import MindSpore imports this module in
its ``__init__``, so that the variables are set before MindSpore is imported, whichever module a program imports first.
A variable that is already set keeps its value.

=====================================  ============  ==================================================================
variable                               value         why
=====================================  ============  ==================================================================
``ONEDNN_MAX_CPU_ISA``                 ``AVX2``      MindSpore 2.9 and later, on x86-64 only: their oneDNN 3.10 takes a
                                                     reference convolution on processors with AVX-512, about a hundred
                                                     times slower than the one for AVX2
``MINDONE_DDPM_LIMITS_ONEDNN``         ``1``         says that the limit above is this package's, not the user's; see
                                                     :func:`onednn_is_limited`
``GLOG_v``                             ``3``         MindSpore's C++ code logs errors only
``TRANSFORMERS_NO_ADVISORY_WARNINGS``  ``1``         no "None of PyTorch, TensorFlow >= 2.0, or Flax have been found"
``TRANSFORMERS_VERBOSITY``             ``error``     likewise
``TOKENIZERS_PARALLELISM``             ``false``     no warning when data workers are forked
``HF_HUB_DISABLE_TELEMETRY``           ``1``         nothing is sent
``HF_DATASETS_DISABLE_PROGRESS_BARS``  ``1``         one progress bar at a time: training's
``HF_HUB_DISABLE_XET``                 ``1``         only where ``HF_ENDPOINT`` names another server than
                                                     huggingface.co: huggingface_hub would send large files to, and
                                                     take them from, Hugging Face's storage (Xet) all the same
=====================================  ============  ==================================================================

If a program imports MindSpore first, MindSpore keeps its own log level (warnings), and likewise the others that are
already imported. The limit on oneDNN still holds, because oneDNN reads it when its first operator runs; after that it
does not, and the program must set ``ONEDNN_MAX_CPU_ISA=AVX2`` itself. Results do not depend on any of this.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from urllib.parse import urlparse

ONEDNN_LIMIT = "ONEDNN_MAX_CPU_ISA"
LIMITED_HERE = "MINDONE_DDPM_LIMITS_ONEDNN"

DEFAULTS = {
    "GLOG_v": "3",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


# The server that huggingface_hub asks by default, and its storage for large files belongs to.
HUGGING_FACE_HOSTS = ("huggingface.co", "hf.co")


def hub_is_mirrored() -> bool:
    """Whether ``HF_ENDPOINT`` names a server that is not Hugging Face's own."""
    host = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or ""
    return host not in HUGGING_FACE_HOSTS and not host.endswith(tuple(f".{name}" for name in HUGGING_FACE_HOSTS))


def onednn_is_limited() -> bool:
    """Whether this package, here or in a parent process, limits MindSpore's oneDNN; False if the user does."""
    return LIMITED_HERE in os.environ


def _onednn_picks_slow_convolutions() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        version = importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return False
    major, minor = (int(part) for part in version.split(".")[:2])
    return (major, minor) >= (2, 9)


def _set_variables() -> None:
    if ONEDNN_LIMIT not in os.environ and _onednn_picks_slow_convolutions():
        os.environ.update({ONEDNN_LIMIT: "AVX2", LIMITED_HERE: "1"})
    if hub_is_mirrored():
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


_set_variables()

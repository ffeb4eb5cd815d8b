"""The machine: environment, device choice, execution mode, and quiet.

:func:`prepare_environment` must run before MindSpore is imported; the package's ``__init__`` sees to it. Everything
that imports MindSpore does so inside a function, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import platform
import warnings
from collections.abc import Iterator

import mindone_ddpm


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


def versions() -> dict[str, str]:
    """Of this package, Python, and the packages that the figures of a run depend on."""
    names = ("mindspore", "mindone", "numpy", "datasets", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"mindone_ddpm": mindone_ddpm.__version__, "python": platform.python_version(), **found}

"""Importing mindone and the libraries around it: quietly, and no more of it than is used."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import platform
import warnings
from collections.abc import Iterator

import mindone_ddpm
from mindone_ddpm.common.lazy_imports import lazy_imports


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """How mindone is imported, everywhere in this package.

    Hides what it and the libraries below it print while they are imported; exceptions pass. Packages of mindone that
    import far more than is used are imported lazily; see :mod:`mindone_ddpm.common.lazy_imports`.
    """
    with (
        lazy_imports(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def quiet_libraries() -> None:
    """Silence the libraries' loggers and warnings that say nothing a user can act on."""
    for name in ("mindone", "mindspore", "transformers", "datasets", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    with quiet_imports():
        from mindone.diffusers.utils import logging as mindone_logging

    mindone_logging.disable_progress_bar()


def versions() -> dict[str, str]:
    """Versions of this package, Python, and the packages that a run's results depend on."""
    names = ("mindspore", "mindone", "numpy", "datasets", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"mindone_ddpm": mindone_ddpm.__version__, "python": platform.python_version(), **found}

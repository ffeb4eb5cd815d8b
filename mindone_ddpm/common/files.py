"""The machine: environment, device choice, execution mode, and quiet.

:func:`prepare_environment` must run before MindSpore is imported; the package's ``__init__`` sees to it. Everything
that imports MindSpore does so inside a function, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mindone_ddpm.common.errors import ConfigError


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a half."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        sync_to_disk(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder that is there whole or not at all: ``write(beside)`` fills one beside it, which is then renamed."""
    beside, replaced = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        write(beside)
        for path in [*files_in(beside), *(path for path in beside.rglob("*") if path.is_dir()), beside]:
            sync_to_disk(path)
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(beside, folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(folder: Path) -> None:
    """Raises ConfigError if a folder cannot be made, or written into."""
    obstacle = unwritable(folder)
    if obstacle is not None:
        raise ConfigError(f"--output_dir {folder}: {obstacle} cannot be written into; give another folder")


def unwritable(folder: Path) -> Path | None:
    """What keeps a folder from being made, or written into: itself, or what is there above it. None if nothing does."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return None if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else existing


def cache_dir() -> Path:
    """Where what is made once and used again is kept: ``MINDONE_DDPM_CACHE``, or a folder of the user's cache."""
    given = os.environ.get("MINDONE_DDPM_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindone_ddpm"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"mindone_ddpm-{os.getuid()}"

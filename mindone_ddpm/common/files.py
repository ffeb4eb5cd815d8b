"""Files and folders: written atomically, checked, hashed. The one place where this package replaces a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mindone_ddpm.common.errors import ConfigError

BLOCK_BYTES = 1 << 20


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """The process's umask, without changing it for a moment where the system tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    umask = os.umask(0)
    os.umask(umask)
    return umask


def use_umask(path: Path) -> None:
    """Give a file the permissions that the user's umask gives to new files; libraries write some as 0600."""
    path.chmod(0o666 & ~current_umask())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write ``path`` at: renamed to it at the end, removed where something fails.

    A reader finds the old file or the new one, never a part. The temporary file is in the same folder, hidden, with the
    same suffix, and of this process alone.
    """
    tmp_path = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield tmp_path
        use_umask(tmp_path)
        sync_to_disk(tmp_path)
        os.replace(tmp_path, path)
    finally:
        tmp_path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as tmp_path:
        tmp_path.write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder atomically: ``write(tmp_path)`` fills one beside it, which is then renamed."""
    tmp_path, replaced = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(tmp_path, ignore_errors=True)
    try:
        tmp_path.mkdir(parents=True)
        write(tmp_path)
        for path in files_in(tmp_path):
            use_umask(path)
        for path in [*files_in(tmp_path), *(path for path in tmp_path.rglob("*") if path.is_dir()), tmp_path]:
            sync_to_disk(path)
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(tmp_path, folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def write_into_folder(folder: Path, write: Callable[[Path], None], last: str) -> None:
    """Add files to a folder that may hold others: written in a folder inside it, flushed, then moved one by one.

    Args:
        write: fills the folder that it is given.
        last: the name of the file that is moved last: where it is, all others are there too.
    """
    tmp_path = folder / ".product.tmp"
    shutil.rmtree(tmp_path, ignore_errors=True)
    try:
        tmp_path.mkdir(parents=True)
        write(tmp_path)
        names = [path.relative_to(tmp_path) for path in files_in(tmp_path)]
        for name in sorted(names, key=lambda file: file.name == last):
            use_umask(tmp_path / name)
            sync_to_disk(tmp_path / name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(tmp_path / name, folder / name)
            sync_to_disk((folder / name).parent)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def cache_dir() -> Path:
    """Where what is made once and used again is cached: ``MINDONE_DDPM_CACHE``, or a folder of the user's cache."""
    given = os.environ.get("MINDONE_DDPM_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindone_ddpm"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"mindone_ddpm-{os.getuid()}"


def check_writable(folder: Path) -> None:
    """Raises ConfigError if an output folder cannot be made, or written into."""
    obstacle = unwritable(folder)
    if obstacle is not None:
        raise ConfigError(f"--output_dir {folder}: {obstacle} cannot be written into; give another folder")


def unwritable(folder: Path) -> Path | None:
    """What keeps a folder from being made or written into: the folder itself or one above it; None if nothing does."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return None if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else existing

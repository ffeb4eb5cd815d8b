"""Files and folders: written atomically, found, hashed. The one place where this package replaces a file.

Every writer here works on a temporary path, hidden and next to the target: ``.NAME.TOKEN.tmp`` with its suffix.
It is removed when writing fails. What a killed process leaves is found by :func:`remove_leftovers`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mindone_ddpm.common.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

BLOCK_BYTES = 1 << 20
TOKEN_BYTES = 4

LEFTOVER = re.compile(rf"\..+\.[0-9a-f]{{{2 * TOKEN_BYTES}}}\.(tmp|old)(\.[^.]+)?")
# The names in version 0.1.
OLD_LEFTOVER_FILE = re.compile(r"\..+\.tmp")
OLD_LEFTOVER_FOLDER = re.compile(r"\.checkpoint-\d+\.(tmp|old)|\.pipeline\.tmp")


# --- writing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: Path, mode: int = 0o666, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path to write a file at; at the end it is flushed and renamed to ``path``.

    A reader finds the old file or the new one, never a part. When the block raises, ``path`` stays as it was.

    Args:
        path: its folder must exist.
        mode: permissions before the user's umask; 0o777 for a program or a library.
        overwrite: False: a file that another process has put at ``path`` by then stays; it may have opened that one.
    """
    tmp_path = temporary_path(path)
    try:
        yield tmp_path
        set_permissions(tmp_path, mode & ~current_umask())
        sync_to_disk(tmp_path)
        if overwrite or not _link(tmp_path, path):
            os.replace(tmp_path, path)
    finally:
        tmp_path.unlink(missing_ok=True)


def _link(source: Path, path: Path) -> bool:
    """Give a file a second name unless the name is taken; False on a file system without hard links."""
    try:
        os.link(source, path)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as tmp_path:
        tmp_path.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8")


def save_safetensors(arrays: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as a safetensors file, atomically.

    Args:
        metadata: texts for the file's header; transformers and diffusers want ``{"format": "pt"}``.

    Raises:
        OSError, or safetensors' own error: the file cannot be written.
    """
    import numpy as np
    from safetensors.numpy import save_file

    # safetensors takes the memory as it is: rows must follow each other. Scalars keep their shape ().
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with atomic_path(path) as tmp_path:
        save_file(dense, tmp_path, metadata=None if metadata is None else dict(metadata))


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill; at the end it is flushed and renamed to ``folder``, in place of one that is there."""
    tmp_path, replaced = temporary_path(folder), temporary_path(folder, "old")
    try:
        tmp_path.mkdir(parents=True)
        yield tmp_path
        finish_files(tmp_path)
        for path in [*(path for path in tmp_path.rglob("*") if path.is_dir()), tmp_path]:
            sync_to_disk(path)
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(tmp_path, folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def added_files(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder to fill; at the end its files are moved into ``folder``, which may hold others.

    Args:
        last: the name of the file that is moved last: where it is, the others are too.
    """
    tmp_path = temporary_path(folder / "files")
    try:
        tmp_path.mkdir(parents=True)
        yield tmp_path
        finish_files(tmp_path)
        names = [path.relative_to(tmp_path) for path in files_in(tmp_path)]
        for name in sorted(names, key=lambda file: file.name == last):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(tmp_path / name, target)
            sync_to_disk(target.parent)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def temporary_path(path: Path, kind: str = "tmp") -> Path:
    """A new hidden name next to a path, with its suffix: libraries choose a format by it."""
    suffix = f".{kind}" if path.is_dir() else f".{kind}{path.suffix}"
    return path.with_name(f".{path.stem}.{secrets.token_hex(TOKEN_BYTES)}{suffix}")


def finish_files(folder: Path) -> None:
    """Flush all files in a folder, and give them the permissions of new files; some libraries write 0600."""
    umask = current_umask()
    for path in files_in(folder):
        set_permissions(path, 0o666 & ~umask)
        sync_to_disk(path)


def set_permissions(path: Path, permissions: int) -> None:
    """Change a file's permissions where they differ and the file system has such."""
    if stat.S_IMODE(path.stat().st_mode) != permissions:
        with contextlib.suppress(OSError):
            path.chmod(permissions)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """The process's umask. Linux tells it; elsewhere it has to be set for a moment to be read."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder and its subfolders. Nobody else may be writing there."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        is_folder = path.is_dir() and not path.is_symlink()
        old = OLD_LEFTOVER_FOLDER if is_folder else OLD_LEFTOVER_FILE
        if not LEFTOVER.fullmatch(path.name) and not (path.parent == folder and old.fullmatch(path.name)):
            continue
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# --- reading -------------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def load_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by name. Raises ValueError, OSError or safetensors' own error: it is none."""
    from safetensors.numpy import load_file

    check_regular(path)
    return load_file(path)


def check_regular(path: Path) -> None:
    """Raises ValueError for a folder, a device, or a pipe, for which a reader would wait; OSError if there is none."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is not a file")


def read_limited(path: Path, most_bytes: int) -> bytes:
    """The content of a file that may be a stranger's.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe, a device or too large; the message completes "FILE: ...".
    """
    check_regular(path)
    if path.stat().st_size > most_bytes:
        raise ValueError(f"is larger than {most_bytes / 2**20:.3g} MiB")
    with path.open("rb") as file:
        return file.read(most_bytes + 1)


def irregular_in(folder: Path) -> Path | None:
    """The first path below a folder that is neither a folder nor a file: a pipe, a device, a link to one or to nothing.

    Libraries that open it would wait for ever, or read without end.
    """
    for path in sorted(folder.rglob("*")):
        try:
            mode = path.stat().st_mode
        except OSError:
            return path
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return path
    return None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


# --- places --------------------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """The folder of things that are made once and used again: ``MINDONE_DDPM_CACHE``, or one in the user's cache."""
    given = os.environ.get("MINDONE_DDPM_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindone_ddpm"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"mindone_ddpm-{os.getuid()}"


def check_writable(folder: Path, flag: str = "--output_dir") -> None:
    """Raises ConfigError if an output folder cannot be made, or written into, or is the root of all."""
    try:
        obstacle = unwritable(folder)
        is_root = folder.resolve() == Path(folder.resolve().anchor)
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{flag} {str(folder)[:60]!r}...: {reason}; give another folder") from error
    if is_root:
        raise ConfigError(f"{flag} {folder}: is the root of the file system; give a folder of its own")
    if obstacle is not None:
        raise ConfigError(f"{flag} {folder}: {obstacle} cannot be written into; give another folder")


def unwritable(folder: Path) -> Path | None:
    """What keeps a folder from being made or written into: the folder itself or one above it; None if nothing does."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return None if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else existing

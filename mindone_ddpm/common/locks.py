"""A lock on a folder: one process at a time writes there. When its holder ends, however it ends, the lock is free."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.json_files import read_table

LOCK_FILE = ".lock"
MOST_BYTES = 10_000  # of it
FLOCK = "hhqqi4x"  # C's struct flock on 64-bit Linux: type, whence, start, length, process


class FolderLock:
    """See :meth:`hold`. The lock is POSIX's on a file in the folder: a network file system has it too, and processes
    that the holder has forked do not keep it.

    Args:
        folder: need not exist.
        flag: names the folder in errors.
    """

    def __init__(self, folder: Path, flag: str):
        self.folder, self.flag = folder, flag
        self._file: int | None = None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock inside. The folder is made if it is missing, and removed again if nothing was put there.

        Raises:
            ConfigError: another process holds it, or the lock's file cannot be written.
        """
        made = not self.folder.exists()
        try:
            self.acquire()
        except OSError as error:
            raise ConfigError(f"{self.flag} {self.folder}: cannot be written to ({error.strerror})") from error
        try:
            yield
        finally:
            self._release()
            if made:
                with contextlib.suppress(OSError):  # it is no longer empty
                    self.folder.rmdir()

    def acquire(self) -> None:
        """Take the lock, again if the folder was removed meanwhile. Raises ConfigError, OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOCK_FILE
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._lock(file)
            except BaseException:
                os.close(file)
                raise
            if self._is_at(path, file):
                break
            os.close(file)  # its holder has just removed it
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(about).encode(), 0)
        if self._file is not None:
            os.close(self._file)  # of the folder that was removed
        self._file = file

    def is_lost(self) -> bool:
        """Whether the folder was removed, or the lock's file in it."""
        return self._file is not None and not self._is_at(self.folder / LOCK_FILE, self._file)

    def check(self) -> None:
        """Raises ConfigError if another process holds the lock."""
        with contextlib.suppress(OSError):
            file = os.open(self.folder / LOCK_FILE, os.O_RDWR)
            try:
                self._lock(file)
            finally:
                os.close(file)

    def holder(self) -> int | None:
        """The id of the process that holds the lock; None where nobody does. The lock is asked for, not taken.

        0: a process of another machine, or one that is not seen from this container.
        """
        try:
            file = os.open(self.folder / LOCK_FILE, os.O_RDWR)
        except OSError:
            return None
        try:
            wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, process = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, wanted))
        except OSError:
            return None
        finally:
            os.close(file)
        return None if kind == fcntl.F_UNLCK else max(process, 0)

    def _lock(self, file: int) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(self._taken()) from error

    def _release(self) -> None:
        if self._file is not None:
            if not self.is_lost():
                (self.folder / LOCK_FILE).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    @staticmethod
    def _is_at(path: Path, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(path))
        except FileNotFoundError:
            return False

    def _taken(self) -> str:
        """Who holds the lock, as far as its file says."""
        try:
            about = read_table(self.folder / LOCK_FILE, MOST_BYTES)
            holder = (
                f"process {int(about['process'])} on {about['host']!s:.100} writes there since {about['since']!s:.19}"
            )
        except (OSError, ValueError, KeyError, TypeError):
            holder = "another process writes there"
        return f"{self.flag} {self.folder}: {holder}; stop it, or give another folder"

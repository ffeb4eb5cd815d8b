"""Compiles the operators in C++ of this folder, once on the user's machine, into the user's cache folder.

Does not import MindSpore.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mindone_ddpm.common.files import cache_dir
from mindone_ddpm.common.machine import cpu_features

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.cpp")))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))

# No -ffast-math: infinities and NaN keep their meaning.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
    *("-ffp-contract=fast", "-shared", "-fPIC"),
)

NEWEST_KEPT = 5  # files of each kind in the cache: other versions of this package and of MindSpore leave theirs


def find_compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


def compile_library() -> Path:
    """Compile the operators unless that was done before. Returns the library's path.

    Raises:
        OSError: there is no compiler, or it failed; the message is one line.
    """
    texts = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS)]
    identity = "\0".join([*texts, *FLAGS, cpu_features(), *platform.libc_ver()])
    # MindSpore opens it by its real path, and so must this process: by another it would be a second library.
    path = cache_dir().resolve() / f"native-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if ":" in str(path):
        raise OSError(f"MindSpore takes no library from {path.parent}, which has a colon in its name")
    if path.exists():
        return path
    compiler = find_compiler()
    if compiler is None:
        raise OSError("there is no C++ compiler; install g++")
    with _atomic(path) as tmp_path:
        command = [compiler, *FLAGS, *map(str, SOURCES), "-o", tmp_path, "-ldl", "-lpthread"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{compiler} took longer than {error.timeout:g} s") from error
        if result.returncode != 0:
            first_error = next((line for line in result.stderr.splitlines() if "error" in line), "it gave no reason")
            raise OSError(f"{compiler} failed: {first_error}")
    return path


def copy_of(onednn: Path) -> Path | None:
    """MindSpore's oneDNN as another file, which is another library to the system; None where there is no room for it.

    MindSpore's own convolutions must not use AVX-512 (see :mod:`mindone_ddpm.common.environment`). These here may, but
    a oneDNN has one limit for the whole process.
    """
    about = onednn.stat()
    path = cache_dir().resolve() / f"onednn-{about.st_size}-{about.st_mtime_ns}.so"
    if path.exists():
        return path
    try:
        with _atomic(path) as tmp_path:
            shutil.copyfile(onednn, tmp_path)
    except OSError:
        return None
    return path


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[str]:
    """Yield a temporary file to write, which then becomes ``path`` atomically.

    Unless another process was first: it may have opened its own file already, which then stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, tmp_path = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    os.close(number)
    try:
        yield tmp_path
        os.chmod(tmp_path, 0o755)  # other users may share the cache
        try:
            os.link(tmp_path, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(tmp_path, path)
        _remove_old(path)
    finally:
        Path(tmp_path).unlink(missing_ok=True)


def _remove_old(path: Path) -> None:
    alike = path.name.split("-")[0] + "-*" + path.suffix
    with contextlib.suppress(OSError):
        for old in sorted(path.parent.glob(alike), key=lambda file: file.stat().st_mtime)[:-NEWEST_KEPT]:
            old.unlink(missing_ok=True)


def num_threads() -> int:
    """Of the operators in C++: ``OMP_NUM_THREADS``, or one for each core that this process may use."""
    with contextlib.suppress(KeyError, ValueError):
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return len(os.sched_getaffinity(0))


def is_wanted() -> bool:
    """``MINDONE_DDPM_NATIVE=0`` in the environment leaves the operators in C++ out."""
    return os.environ.get("MINDONE_DDPM_NATIVE") != "0"

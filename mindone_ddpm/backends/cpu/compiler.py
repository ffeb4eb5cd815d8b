"""Compiles the operators in C++ of this folder, once on the user's machine, into the user's cache folder.

Does not import MindSpore.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mindone_ddpm.common.files import atomic_path, cache_dir
from mindone_ddpm.common.machine import cpu_features

_SOURCES = tuple(sorted(Path(__file__).parent.glob("*.cpp")))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))

# No -ffast-math: infinities and NaN keep their meaning. Symbolic: what operators call is this library's own, whatever
# other libraries of the process have by the same name.
FLAGS = (
    *("-std=c++17", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    "-fPIC",
)
LINK_FLAGS = ("-shared", "-Wl,-Bsymbolic", "-ldl", "-lpthread")
# Compiled at the same time. What calls the others and oneDNN, or has its vectors written out, is as fast with less
# optimization, which takes less time. It is linked last: of a function of the headers the first copy is taken.
LESS_OPTIMIZED = ("attention_block", "convolution", "resnet_block", "runtime", "unet", "winograd")
PARTS: tuple[tuple[str, tuple[Path, ...]], ...] = (
    ("-O3", tuple(path for path in _SOURCES if path.stem not in LESS_OPTIMIZED)),
    ("-O2", tuple(path for path in _SOURCES if path.stem in LESS_OPTIMIZED)),
)

HASH_BYTES = hashlib.sha256().digest_size
NEWEST_KEPT = 5  # files of each kind in the cache: other versions of this package and of MindSpore leave theirs


def find_compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


_in_background: Future[Path] | None = None


def compile_in_background() -> None:
    """Begin to compile in a thread, so that it is done while a program imports; errors are :func:`compile_library`'s.

    Where the library is there already, nothing happens.
    """
    global _in_background
    if _in_background is None and is_wanted() and not _library_path().exists():
        future: Future[Path] = Future()
        _in_background = future

        def compile_now() -> None:
            try:
                future.set_result(_compile_library())
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=compile_now, name="compile operators").start()


def compile_library() -> Path:
    """Compile the operators unless that was done before. Returns the library's path.

    Raises:
        OSError: there is no compiler, or it failed; the message is one line.
    """
    global _in_background
    begun, _in_background = _in_background, None
    return _compile_library() if begun is None else begun.result()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _library_path() -> Path:
    parts = [text for level, sources in PARTS for text in (level, *map(_text, sources))]
    identity = "\0".join([*parts, *map(_text, HEADERS), *FLAGS, *LINK_FLAGS, cpu_features(), *platform.libc_ver()])
    # MindSpore opens it by its real path, and so must this process: by another it would be a second library.
    return cache_dir().resolve() / f"native-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"


def _compile_library() -> Path:
    path = _library_path()
    if ":" in str(path):
        raise OSError(f"MindSpore takes no library from {path.parent}, which has a colon in its name")
    if _is_whole(path):
        return path
    compiler = find_compiler()
    if compiler is None:
        raise OSError("there is no C++ compiler; install g++")
    with _cached(path) as tmp_path, tempfile.TemporaryDirectory() as folder:
        objects = _compile_sources(compiler, Path(folder))
        _run(compiler, *map(str, objects), *LINK_FLAGS, "-o", str(tmp_path))
        with tmp_path.open("ab") as library:  # what follows a library's own content is not loaded
            library.write(hashlib.sha256(tmp_path.read_bytes()).digest())
    return path


def _compile_sources(compiler: str, folder: Path) -> list[Path]:
    """An object file for each part. Each is of one source, so that what its files include is read once."""

    def compile_part(number: int) -> Path:
        level, sources = PARTS[number]
        path = folder / f"{number}.o"
        included = [part for source in sources for part in ("-include", str(source))]
        _run(compiler, *FLAGS, level, *included, "-c", "-x", "c++", os.devnull, "-o", str(path))
        return path

    with ThreadPoolExecutor() as threads:
        return list(threads.map(compile_part, range(len(PARTS))))


def _run(*command: str) -> None:
    """Run the compiler. Raises OSError if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} took longer than {error.timeout:g} s") from error
    if result.returncode != 0:
        first_error = next(
            (line for line in result.stderr.splitlines() if "error" in line or "undefined" in line), "it gave no reason"
        )
        raise OSError(f"{command[0]} failed: {first_error}")


def _is_whole(path: Path) -> bool:
    """Whether a library ends with the hash of all before it. Loading one that was cut off ends a process by SIGBUS."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-HASH_BYTES]).digest() == content[-HASH_BYTES:]


def copy_of(onednn: Path) -> Path | None:
    """MindSpore's oneDNN as another file, which is another library to the system; None where there is no room for it.

    MindSpore's own convolutions must not use AVX-512 (see :mod:`mindone_ddpm.common.environment`). These here may, but
    a oneDNN has one limit for the whole process.
    """
    about = onednn.stat()
    path = cache_dir().resolve() / f"onednn-{about.st_size}-{about.st_mtime_ns}.so"
    try:
        if path.exists() and filecmp.cmp(onednn, path, shallow=False):
            return path
        with _cached(path) as tmp_path:
            shutil.copyfile(onednn, tmp_path)
    except OSError:
        return None
    return path


@contextlib.contextmanager
def _cached(path: Path) -> Iterator[Path]:
    """A temporary path to write a library at, which then becomes ``path``, in place of a damaged one.

    Unless another process was first: it may have opened its own file already, which then stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with atomic_path(path, mode=0o777, overwrite=False) as tmp_path:
        yield tmp_path
    _remove_old(path)


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

"""NVIDIA's libraries for MindSpore's GPU plugin: the machine's own, or those of ``pip install mindone-ddpm[gpu]``.

MindSpore's wheel has plugins for CUDA 11.1 and 11.6, but neither the libraries that these need nor a way to find them
among Python's packages. A library that the process has loaded already is found by its name alone, so they are
loaded here, before MindSpore is imported. And MindSpore asks the ``nvcc`` in ``CUDA_HOME`` which plugin to take; where
there is none, a script of one line answers in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# What the plugin for CUDA 11.6 names (`readelf -d libmindspore_gpu.so.11.6`), each after those that it needs itself.
LIBRARIES = (
    *("libcudart.so.11.0", "libcublasLt.so.11", "libcublas.so.11", "libcurand.so.10", "libcufft.so.10"),
    *("libcusparse.so.11", "libcusolver.so.11", "libnvrtc.so.11.2", "libcudnn.so.8"),
)


PLUGIN_CUDA = "11.6"


OLDEST_DRIVER_CUDA = (11, 2)  # from here on a driver serves all of CUDA 11


DRIVER_ADVICE = "install or update NVIDIA's driver, and see that `nvidia-smi` runs"


LIBRARIES_ADVICE = "pip install 'mindone-ddpm[gpu]'"


def wheel_folders() -> list[Path]:
    """Where NVIDIA's wheels put libraries in this environment."""
    return [folder for place in sys.path for folder in sorted(Path(place or ".").glob("nvidia/*/lib"))]


def load_libraries() -> list[str]:
    """Load what the plugin needs; the names of what is nowhere. The machine's own come first."""
    missing = []
    for name in LIBRARIES:
        places = [name, *(str(folder / name) for folder in wheel_folders() if (folder / name).is_file())]
        if not any(_loads(place) for place in places):
            missing.append(name)
    return missing


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def driver_trouble() -> str | None:
    """Why NVIDIA's driver cannot serve CUDA 11, in a few words; None if it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no driver: libcuda.so.1 is not found"
    status = driver.cuInit(0)
    if status != 0:
        return f"the driver does not start: CUDA error {status}"
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    if version < OLDEST_DRIVER_CUDA:
        needed = OLDEST_DRIVER_CUDA
        return f"the driver serves CUDA {version[0]}.{version[1]}, {needed[0]}.{needed[1]} is needed"
    driver.cuDeviceGetCount(ctypes.byref(number))
    return None if number.value > 0 else "the driver shows no GPU"


def trouble() -> tuple[str, str] | None:
    """What stands between MindSpore and the GPU, and what to do about it; loads the libraries on the way."""
    reason = driver_trouble()
    if reason is not None:
        return reason, DRIVER_ADVICE
    missing = load_libraries()
    if missing:
        return f"{', '.join(missing)} not found", LIBRARIES_ADVICE
    return None


@contextlib.contextmanager
def environment(cache: Path) -> Iterator[None]:
    """What MindSpore reads while it is imported and takes the GPU; as it was before, afterwards.

    Args:
        cache: where the script that answers for ``nvcc`` may be kept.
    """
    before = {name: os.environ.get(name) for name in ("CUDA_HOME", "LD_LIBRARY_PATH")}
    if not compiler_says_cuda_11(os.environ.get("CUDA_HOME")):
        os.environ["CUDA_HOME"] = str(compiler_stand_in(cache / "cuda"))
    # MindSpore checks the plugin with `ldd`, another process, which does not see what is loaded here.
    folders = [*filter(None, [before["LD_LIBRARY_PATH"]]), *map(str, wheel_folders())]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def compiler_says_cuda_11(home: str | None) -> bool:
    if not home:
        return False
    try:
        said = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(r"release 11\.\d", said) is not None


def compiler_stand_in(folder: Path) -> Path:
    """A folder with a `bin/nvcc` that says a version and does nothing else."""
    program = folder / "bin" / "nvcc"
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        tmp_path = program.with_name(f"nvcc-{os.getpid()}")
        tmp_path.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {PLUGIN_CUDA}, V{PLUGIN_CUDA}.0"\n')
        tmp_path.chmod(0o755)
        tmp_path.replace(program)
    return folder

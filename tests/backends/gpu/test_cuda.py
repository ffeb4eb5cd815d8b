"""NVIDIA's libraries and driver, as far as a machine without either can tell: both are made up by a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, own_lines

from mindone_ddpm.backends.gpu import cuda

DRIVER = """
int cuInit(int flags) {{ return {init}; }}
int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}
int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
"""


def compile_library(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler = next(name for name in ("gcc", "cc", "clang") if shutil.which(name))
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)


def make_driver(folder: Path, init: int = 0, version: int = 11080, count: int = 1) -> Path:
    compile_library(folder / "libcuda.so.1", DRIVER.format(init=init, version=version, count=count))
    return folder


def run_python(program: str, library_path: Path | None = None, python_path: Path = ROOT) -> tuple[str, str]:
    """What a program prints on both outputs, in a process that may load its own libraries."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(python_path)])}
    if library_path is not None:
        environment["LD_LIBRARY_PATH"] = str(library_path)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return result.stdout.strip(), result.stderr.strip()


TROUBLE = "from mindone_ddpm.backends.gpu import cuda; print(cuda.driver_trouble())"


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ({}, "None"),
        ({"init": 100}, "the driver does not start: CUDA error 100"),
        ({"version": 10020}, "the driver serves CUDA 10.2, 11.2 is needed"),
        ({"count": 0}, "the driver shows no GPU"),
    ],
)
def test_the_driver_is_asked(driver, said, tmp_path):
    assert run_python(TROUBLE, make_driver(tmp_path, **driver))[0] == said


def test_no_driver():
    assert run_python(TROUBLE)[0] == "no driver: libcuda.so.1 is not found"


def test_libraries_are_found_where_their_wheels_put_them(tmp_path):
    """In an order in which each finds those that it needs; what is nowhere is named."""
    for name in cuda.LIBRARIES:
        if name != "libcufft.so.10":
            compile_library(tmp_path / "nvidia" / name.split(".")[0] / "lib" / name, "int one(void) { return 1; }")
    program = "from mindone_ddpm.backends.gpu import cuda; print(cuda.load_libraries())"
    assert run_python(program, python_path=tmp_path)[0] == "['libcufft.so.10']"
    assert run_python(program)[0] == str(list(cuda.LIBRARIES))


AUTO = """
from mindone_ddpm.runtime import start
start.available_devices = lambda: ["GPU", "CPU"]
print(start.start("auto", "graph", 0).device)
"""


def test_without_the_libraries_training_takes_the_cpu_and_says_why(tmp_path):
    out, err = run_python(AUTO, make_driver(tmp_path))
    assert out == "CPU"
    assert own_lines(err) == [
        f"note: MindSpore cannot use GPU ({', '.join(cuda.LIBRARIES)} not found; pip install 'mindone-ddpm[gpu]'); "
        "taking CPU"
    ]


def test_without_a_driver_training_takes_the_cpu_and_says_why():
    out, err = run_python(AUTO)
    assert out == "CPU" and len(own_lines(err)) == 1
    assert "(no driver: libcuda.so.1 is not found; install or update NVIDIA's driver" in err


def test_asked_for_a_gpu_that_cannot_be_used_the_program_stops():
    program = AUTO.replace("auto", "GPU").replace("print(", "try:\n    print(")
    out, _ = run_python(f"{program}except start.DeviceError as problem:\n    print(problem)\n")
    assert out.startswith("--device GPU: MindSpore cannot use it (no driver: libcuda.so.1 is not found")


def test_mindspore_is_told_which_plugin_to_take(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda-13"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with cuda.environment(tmp_path / "cache"):
        home = os.environ["CUDA_HOME"]
        said = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
        assert "release 11.6," in said
    assert os.environ["CUDA_HOME"] == str(tmp_path / "cuda-13") and "LD_LIBRARY_PATH" not in os.environ

    monkeypatch.setenv("CUDA_HOME", home)  # a compiler of CUDA 11 is left in its place
    with cuda.environment(tmp_path / "third"):
        assert os.environ["CUDA_HOME"] == home
    assert not (tmp_path / "third").exists()

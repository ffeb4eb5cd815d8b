"""The library of operators in C++: compiled once, cached, found again, and left out where it cannot be made."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
from conftest import NEEDS_ONEDNN_3, ROOT, run_program

from mindone_ddpm.backends.cpu import compiler, native
from mindone_ddpm.common.environment import LIMITED_HERE, onednn_is_limited
from mindone_ddpm.common.machine import cpu_features

BITS = """
import hashlib
from mindone_ddpm.runtime.start import start
start("CPU", "pynative", 0)
import mindspore as ms
import numpy as np
from mindone_ddpm.backends.cpu import native
from mindone_ddpm.backends.cpu.compiler import num_threads
x = ms.Tensor(np.random.default_rng(0).standard_normal((4, 32, 24, 24)), ms.float32)
ones = ms.Tensor(np.ones(32), ms.float32)
norm = native.group_norm(x, ones, ones, ms.Tensor([4, 1e-5, 1.0], ms.float32))[0]
rows = x.reshape(4, -1, 4, 8)
looked = native.attention(rows, rows, rows, ms.Tensor([0.1], ms.float32))[0]
total = native.sum_of_squares(x, norm, looked)
print(num_threads(), hashlib.sha256(b"".join(t.asnumpy().tobytes() for t in (norm, looked, total))).hexdigest())
"""


@NEEDS_ONEDNN_3
def test_the_number_of_threads_changes_no_bit(tmp_path):
    program = tmp_path / "bits.py"
    program.write_text(BITS)
    found = {}
    for threads in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        result = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=environment)
        used, found[threads] = result.stdout.split()
        assert used == threads
    assert len(set(found.values())) == 1


def test_without_a_compiler_training_goes_on_and_says_so(digits_flags, tmp_path):
    cache = tmp_path / "cache"
    environment = {"MINDONE_DDPM_CACHE": str(cache), "CXX": "no-such-compiler", "PATH": "/nonexistent"}
    result = run_program(
        "train", *digits_flags, "--max_train_steps", 2, "--output_dir", tmp_path / "run", **environment
    )
    assert result.returncode == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if line.startswith("note:")]
    assert notes == [
        "note: without the fast operators for this CPU (there is no C++ compiler; install g++) "
        "a step takes three to five times as long"
    ]
    assert not list(cache.glob("native-*"))


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    source = tmp_path / "wrong.cpp"
    source.write_text("this is not C++")
    monkeypatch.setattr(compiler, "PARTS", (("-O0", (source,)),))
    with pytest.raises(OSError, match=r"failed: .*error"):
        compiler.compile_library()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrong.cpp"]


def test_what_cannot_be_linked_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source.cpp"
    source.write_text('extern "C" int six(); extern "C" int seven() { return six() + 1; }')
    monkeypatch.setattr(compiler, "PARTS", (("-O0", (source,)),))
    monkeypatch.setattr(compiler, "LINK_FLAGS", (*compiler.LINK_FLAGS, "-Wl,--no-undefined"))
    with pytest.raises(OSError, match="undefined reference to `six'"):
        compiler.compile_library()
    assert not list((tmp_path / "cache").iterdir())


def test_each_source_is_in_one_part():
    sources = [source.name for _, part in compiler.PARTS for source in part]
    here = sorted(path.name for path in compiler.HEADERS[0].parent.glob("*.cpp"))
    assert sorted(sources) == here and {f"{name}.cpp" for name in compiler.LESS_OPTIMIZED} <= set(here)


@pytest.fixture
def unoptimized(monkeypatch):
    """Compiles in 2 s instead of 4: what the library computes is not asked."""
    monkeypatch.setattr(compiler, "PARTS", tuple(("-O0", sources) for _, sources in compiler.PARTS))


def test_the_library_is_compiled_once(tmp_path, monkeypatch, unoptimized):
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    path = compiler.compile_library()
    when = path.stat().st_mtime_ns
    monkeypatch.setattr(compiler, "find_compiler", lambda: pytest.fail("compiled again"))
    assert compiler.compile_library() == path and path.stat().st_mtime_ns == when


def test_the_library_is_compiled_in_the_background(tmp_path, monkeypatch):
    """Once: whoever asks for it then waits for that one. An error is raised where it is asked for."""
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler, "_in_background", None)
    source = tmp_path / "short.cpp"
    source.write_text('extern "C" int five() { return 5; }')
    monkeypatch.setattr(compiler, "PARTS", (("-O0", (source,)),))
    compiler.compile_in_background()
    compiler.compile_in_background()
    path = compiler.compile_library()
    assert ctypes.CDLL(str(path)).five() == 5
    compiler.compile_in_background()
    assert compiler._in_background is None  # it is there already

    source.write_text("this is not C++")
    compiler.compile_in_background()
    with pytest.raises(OSError, match=r"failed: .*error"):
        compiler.compile_library()


def test_damaged_libraries_are_made_again(tmp_path, monkeypatch, unoptimized):
    """Loading a library that was cut off ends the process by SIGBUS, without a word."""
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    source = tmp_path / "source.so"
    source.write_bytes(os.urandom(100_000))
    for make in (compiler.compile_library, lambda: compiler.copy_of(source)):
        path = make()
        whole = path.read_bytes()
        damaged = [whole[: len(whole) // 2], b"", whole[:5000] + b"\0" + whole[5001:]]
        for content in damaged:
            path.write_bytes(content)
            assert make() == path and len(path.read_bytes()) == len(whole)
    assert path.read_bytes() == source.read_bytes()


def test_only_the_newest_libraries_are_kept(tmp_path, monkeypatch, unoptimized):
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    for age in range(1, 9):
        for kind in ("native", "onednn"):
            file = tmp_path / f"{kind}-{age}.so"
            file.write_text("")
            os.utime(file, (1e9 - age, 1e9 - age))
    path = compiler.compile_library()
    left = sorted(file.name for file in tmp_path.iterdir() if file != path)
    assert left == [*(f"native-{age}.so" for age in range(1, 5)), *(f"onednn-{age}.so" for age in range(1, 9))]


def test_the_library_is_known_by_its_real_path(tmp_path, monkeypatch, unoptimized):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path / "link"))
    assert compiler.compile_library().parent == tmp_path / "real"
    assert (compiler.compile_library().stat().st_mode & 0o777) == 0o755


def test_the_first_of_two_processes_that_compile_at_once_wins(tmp_path, monkeypatch, unoptimized):
    """The second must not put another file in the place of the one that the first has opened."""
    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    run, first = subprocess.run, b"of the first process"

    def while_the_first_is_done(command, **options):
        (tmp_path / name).write_bytes(first)
        return run(command, **options)

    name = compiler.compile_library().name
    (tmp_path / name).unlink()
    monkeypatch.setattr(compiler.subprocess, "run", while_the_first_is_done)
    assert compiler.compile_library().read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not onednn_is_limited(), reason="MindSpore's oneDNN needs no limit here")
def test_the_limit_on_mindspores_onednn_is_not_that_of_the_operators():
    own, mindspores = (
        ctypes.CDLL(str(path)) for path in (compiler.copy_of(native.find_onednn()), native.find_onednn())
    )
    avx2 = 7
    assert mindspores.dnnl_get_effective_cpu_isa() == avx2
    has_more = "avx512bw" in cpu_features()
    assert (own.dnnl_get_effective_cpu_isa() > avx2) is has_more


def test_a_users_own_limit_holds_for_the_operators_too():
    program = "import mindone_ddpm.common.environment as e; print(e.onednn_is_limited())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": "AVX2"}
    environment.pop(LIMITED_HERE, None)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.stdout == "False\n", result.stderr


def test_a_place_that_mindspore_takes_no_library_from(digits_flags, tmp_path):
    cache = tmp_path / "a:b"
    flags = ["--max_train_steps", 1, "--save_image_epochs", 0, "--output_dir", tmp_path / "run"]
    result = run_program("train", *digits_flags, *flags, MINDONE_DDPM_CACHE=str(cache))
    assert result.returncode == 0 and "which has a colon in its name" in result.stderr, result.stderr

"""The launcher: what is seen of a job on several ranks, and how it ends when something goes wrong."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import PROGRAMS, ROOT, run_program
from test_checkpoint import assert_same_end, loss_log, start, wait_for, weight_files

from mindone_ddpm.cli import output_dir_of, run_launch
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.output import checkpoint
from mindone_ddpm.runtime import launch

pytestmark = pytest.mark.distributed
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that still run with this folder on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(folder) in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def wait_until_gone(folder: Path, timeout_s: float = 10) -> None:
    wait_for(lambda: not processes_of(folder), timeout_s)


def workers_of(folder: Path) -> list[psutil.Process]:
    workers = []
    for process in processes_of(folder):
        environment = process.environ()
        if environment.get("MS_ROLE") == "MS_WORKER" and process.name().startswith("python"):
            workers.append((int(environment["RANK_ID"]), process))
    return [process for _, process in sorted(workers, key=lambda pair: pair[0])]


def assert_nearly_same_end(folder: Path, reference: Path, step: int, loss: float = 1e-4, weight: float = 1e-5) -> None:
    """Relative difference of losses, and largest of a weight or average: float32 sums are taken in another order."""
    losses = [[float(row[1]) for row in loss_log(path)[1:]] for path in (folder, reference)]
    assert len(losses[0]) == step
    np.testing.assert_allclose(losses[0], losses[1], rtol=loss)
    for name in ("unet", "unet_ema"):
        found, expected = (weight_files(path / f"checkpoint-{step}" / name) for path in (folder, reference))
        largest = max(
            float(np.abs(found[file][key] - array).max()) for file in expected for key, array in expected[file].items()
        )
        print(f"{name}: largest difference of a weight after {step} updates: {largest:.1e}")
        assert largest < weight


def test_only_the_main_rank_speaks_and_its_progress_is_seen(two_ranks):
    folder, result = two_ranks
    assert "2 device(s) = 64" in result.stderr and "20/20" in result.stderr
    assert "trained; the pipeline is in" in result.stderr
    assert "DISTRIBUTED" not in result.stderr and "WARNING" not in result.stderr
    assert sorted(path.name for path in (folder / "logs" / "workers").iterdir()) == [
        "msrun.log",
        "scheduler.log",
        "worker_0.log",
        "worker_1.log",
    ]
    other = (folder / "logs" / "workers" / "worker_1.log").read_text()
    assert not [line for line in other.splitlines() if line.strip() and not line.startswith("[")], other
    wait_until_gone(folder)


@pytest.mark.slow  # test_restarts.py kills one too
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_a_worker_killed_is_named_all_end_and_the_same_command_goes_on(two_ranks, run_flags, tmp_path, mode):
    """The reference ran in graph mode: in PyNative the same run ends nearly the same."""
    reference, _ = two_ranks
    folder = tmp_path / "run"
    # Many steps a second would let the run end before the kill; a checkpoint at every step slows it.
    flags = ["launch", "-n", 2, "train", *run_flags, "--train_batch_size", 16, "--output_dir", folder, "--mode", mode]
    process = start(*flags, "--checkpointing_steps", 1)
    wait_for((folder / "checkpoint-3").exists)
    workers_of(folder)[1].kill()
    killed_at = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    print(f"seconds from the kill to the end: {time.monotonic() - killed_at:.1f}")
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 was killed by signal 9" in stderr and "worker_1.log" in stderr
    wait_until_gone(folder)
    result = run_program(*flags, "--resume_from_checkpoint", "auto")
    assert result.returncode == 0, result.stderr
    if mode == "graph":
        assert_same_end(folder, reference, 20)
    else:
        assert_nearly_same_end(folder, reference, 20)


def test_a_scheduler_killed_ends_the_job_and_is_told(run_flags, tmp_path):
    folder = tmp_path / "run"
    flags = ["launch", "-n", 2, "train", *run_flags, "--train_batch_size", 16, "--output_dir", folder]
    process = start(*flags, "--max_train_steps", 3000, "--checkpointing_steps", 1)
    wait_for((folder / "checkpoint-2").exists)
    (scheduler,) = (one for one in processes_of(folder) if one.environ().get("MS_ROLE") == "MS_SCHED")
    scheduler.kill()
    killed_at = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    print(f"seconds from the kill to the end: {time.monotonic() - killed_at:.1f}")
    assert process.returncode == 1 and time.monotonic() - killed_at < 15
    assert "error: MindSpore's scheduler, through which the ranks find each other, has ended" in stderr
    wait_until_gone(folder)


@pytest.mark.parametrize("mode", ["graph", pytest.param("pynative", marks=pytest.mark.slow)])
def test_told_to_stop_it_writes_a_checkpoint_and_goes_on_to_the_same_end(two_ranks, run_flags, tmp_path, mode):
    reference, _ = two_ranks
    folder = tmp_path / "run"
    flags = ["launch", "-n", 2, "train", *run_flags, "--train_batch_size", 16, "--output_dir", folder, "--mode", mode]
    process = start(*flags)
    wait_for(lambda: (folder / "logs" / "metrics.csv").exists() and len(loss_log(folder)) > 4)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 143, stderr
    assert "--resume_from_checkpoint auto goes on from there" in stderr and "Traceback" not in stderr
    wait_until_gone(folder)
    assert checkpoint.checkpoints_in(folder)
    assert run_program(*flags, "--resume_from_checkpoint", "auto").returncode == 0
    if mode == "graph":
        assert_same_end(folder, reference, 20)
    else:
        assert_nearly_same_end(folder, reference, 20)


@pytest.mark.parametrize("mode", ["graph", pytest.param("pynative", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("how", "message"),
    [("hang", "error: rank 1 has spent"), ("raise", "ValueError: something odd in the data")],
)
def test_a_rank_that_hangs_or_raises_in_its_data_ends_the_job(run_flags, tmp_path, how, message, mode):
    folder = tmp_path / "run"
    script = PROGRAMS / "hanging_job.py"
    started = time.monotonic()
    result = run_program(
        "launch", "-n", 2, script, how, *run_flags, "--train_batch_size", 16, "--output_dir", folder,
        "--step_timeout_s", 40, "--mode", mode,
    )  # fmt: skip
    print(f"{how}: seconds from start to end: {time.monotonic() - started:.1f}")
    assert result.returncode == 1, result.stderr
    last = [line for line in result.stderr.splitlines() if line.startswith("error: rank")][-1]
    assert "rank 1 ended with status 1" in last and message in last and "worker_1.log" in last
    assert time.monotonic() - started < 100
    wait_until_gone(folder)


def test_wrong_use_of_the_launcher_is_told_before_anything_starts(run_flags, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["train", *run_flags, "--output_dir", tmp_path / "run"]
        result = run_program("launch", "-n", 2, "--master_port", port, *flags)
        assert result.returncode == 2 and f"--master_port {port}: is in use" in result.stderr
    result = run_program("launch", "-n", 2, "--local_workers", 3, *flags)
    assert result.returncode == 2 and "--local_workers 3: must be from 1 to -n (2)" in result.stderr
    result = run_program("launch", "-n", 4, "--local_workers", 2, *flags)
    assert result.returncode == 2 and "--master_addr" in result.stderr
    result = run_program("launch", "-n", 2, "--master_addr", "no.such.host", "--master_port", 8118, *flags)
    assert result.returncode == 2 and "--master_addr no.such.host" in result.stderr
    result = run_program("launch", "-n", 2, "--master_port", 99999, *flags)
    assert result.returncode == 2 and "must be from 1024 to 65535" in result.stderr
    result = run_program("launch", "-n", 2, "--bind_core", *flags)
    assert result.returncode == 2 and "--bind_core: no NPU on this machine" in result.stderr
    result = run_program("launch", "-n", 0, *flags)
    assert result.returncode == 2 and "-n 0: must be at least 1" in result.stderr
    result = run_program("launch", "-n", 2, "--master_addr", "no such", *flags)
    assert result.returncode == 2 and "--master_addr no such: is no host" in result.stderr
    assert run_program("launch", "-n", 2).returncode == 2
    result = run_program("launch", "-n", 2, "sample", "--model", tmp_path)
    assert result.returncode == 2 and "sample: ranks can share train" in result.stderr
    assert not (tmp_path / "run").exists()


def test_msrun_is_asked_to_bind_cores_where_there_are_npus(monkeypatch, tmp_path):
    commands = []

    def popen(command, **options):
        commands.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "max_local_ranks", lambda: 8)
    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    parser = argparse.ArgumentParser()
    launch.add_launch_arguments(parser)
    arguments = parser.parse_args(["-n", "8", "--bind_core", "train", "--output_dir", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        run_launch(arguments)
    assert "--bind_core=True" in commands[0] and "--worker_num=8" in commands[0]


def test_ranks_that_never_come_end_the_job(run_flags, tmp_path):
    folder = tmp_path / "run"
    started = time.monotonic()
    result = run_program(
        "launch", "-n", 2, "--local_workers", 1, "--master_addr", "127.0.0.2", "--cluster_timeout_s", 15,
        "train", *run_flags, "--output_dir", folder, timeout_s=200,
    )  # fmt: skip
    print(f"seconds until the missing rank was given up: {time.monotonic() - started:.1f}")
    assert result.returncode == 1
    assert "error: " in result.stderr
    wait_until_gone(folder)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (["train", "--output_dir", "here"], "here"),
        (["train"], TrainingConfig().output_dir),
        (["train_text_to_image"], TextToImageConfig().output_dir),
        (["evaluate", "--num_samples", "10"], EvaluateConfig().output_dir),
        (["own_script.py", "--output_dir", "there", "--flag_of_its_own"], "there"),
    ],
)
def test_the_logs_go_where_the_job_writes(job, expected):
    assert output_dir_of(job) == Path(expected)


@pytest.mark.slow
def test_a_crash_after_the_work_is_done_is_no_failure(tmp_path, monkeypatch):
    """MindSpore's cluster crashes now and then when it is taken down."""
    program = tmp_path / "job.py"
    program.write_text(
        "import os, signal, sys\n"
        "import mindone_ddpm\n"
        "from mindone_ddpm.runtime.start import start\n"
        "status = mindone_ddpm.run(lambda: int(start('CPU', 'graph', 0).rank == int(os.environ['BAD'])))\n"
        "if os.environ['RANK_ID'] == '1': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "sys.exit(status)\n"
    )
    flags = ["launch", "-n", 2, program, "--output_dir", tmp_path / "run"]
    assert run_program(*flags, BAD="-1").returncode == 0
    failed = run_program(*flags, BAD="1")
    assert failed.returncode == 1 and "rank 1 ended with status 1" in failed.stderr


def test_the_last_words_of_a_rank(tmp_path):
    log = tmp_path / "worker_1.log"
    assert launch.last_words(log) == "it said nothing"
    log.write_text("step 1\rstep 2\nerror: no such file\n[INFO] closed\n")
    assert launch.last_words(log) == "error: no such file"
    rule = "-" * 52
    log.write_text(  # as MindSpore 2.10 frames a kernel's error on Ascend
        f"Traceback\nRuntimeError: \n{rule}\n-- Kernel error:\n{rule}\nLaunch kernel failed: AllReduce-op0\n\n"
        f"{rule}\n- Ascend Error Message:\n{rule}\nEI0002: rank 0 waited in vain\n\n{rule}\n"
        f"- C++ Call Stack: (For framework developers)\n{rule}\nactor.cc:995 Run\n"
    )
    said = "RuntimeError: Launch kernel failed: AllReduce-op0 EI0002: rank 0 waited in vain"
    assert launch.last_words(log) == said

"""Two real processes under msrun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import ROOT, run_program
from PIL import Image
from safetensors.numpy import load_file
from test_checkpoint import assert_same_end, loss_log, start, wait_for
from test_optimizers import adamw_by_hand
from test_step import BETA1, BETA2, DECAY, EPSILON, RATE, START, gradient_by_hand

from mindone_ddpm import checkpoint
from mindone_ddpm.launch import find_free_port

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


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_a_two_rank_gradient_by_hand(tmp_path, mode):
    script = Path(__file__).parent / "distributed_step.py"
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path}/logs"]
    command += [f"--master_port={find_free_port()}", str(script), str(tmp_path), mode]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    logs = "\n".join(path.read_text()[-2000:] for path in (tmp_path / "logs").glob("worker_*.log"))
    assert result.returncode == 0, result.stdout + result.stderr + logs
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second or (first["weight"] == second["weight"] and first["step"] == second["step"])

    # The three real samples are x = (1,2,0), (0,1,1) and (2,0,1); filling and ranks leave no trace in their mean:
    # sum x^T x = [[5,2,2],[2,5,1],[2,1,2]], so the gradient is 2/3 of that times W.
    x = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    np.testing.assert_array_equal(x.T @ x, [[5, 2, 2], [2, 5, 1], [2, 1, 2]])
    weight, clipped = START, []
    for place in (0, 2):
        gradient = gradient_by_hand(weight, x)
        assert first["results"][place]["loss"] == pytest.approx(((x @ weight) ** 2).sum() / 3, rel=1e-5)
        assert first["results"][place]["norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        clipped.append(gradient / max(1.0, np.linalg.norm(gradient)))
        weight = adamw_by_hand(START, clipped, [RATE] * len(clipped), BETA1, BETA2, EPSILON, DECAY)
    np.testing.assert_allclose(first["weight"], weight, rtol=1e-5)
    # In between rank 1 alone overflowed: both skipped.
    assert [one["skips"] for one in first["results"]] == [one["skips"] for one in second["results"]] == [0, 1, 1]
    assert first["step"] == 2
    assert first["any"] == second["any"] == [True, False]
    assert first["shared"] and second["shared"]
    assert first["gathered"] == second["gathered"] == [250, 250, 251, 251]


@pytest.fixture(scope="module")
def run_flags(digits_flags):
    return [
        *digits_flags,
        *("--max_train_steps", 20, "--gradient_accumulation_steps", 2, "--checkpointing_steps", 10),
        *("--ddpm_num_inference_steps", 3, "--eval_batch_size", 5, "--save_image_epochs", 1000, "--logging_steps", 4),
    ]


@pytest.fixture(scope="module")
def two_ranks(run_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    flags = ["train", *run_flags, "--train_batch_size", 16, "--output_dir", folder]
    result = run_program("launch", "-n", 2, *flags)
    assert result.returncode == 0, result.stderr
    return folder, result


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


def test_two_ranks_equal_one_with_twice_the_batch(two_ranks, run_flags, tmp_path):
    folder, _ = two_ranks
    alone = tmp_path / "alone"
    assert run_program("train", *run_flags, "--train_batch_size", 32, "--output_dir", alone).returncode == 0
    for name in ("unet", "unet_ema"):
        found = load_file(folder / "checkpoint-20" / name / checkpoint.UNET_WEIGHTS)
        expected = load_file(alone / "checkpoint-20" / name / checkpoint.UNET_WEIGHTS)
        difference = max(np.abs(found[key] - expected[key]).max() for key in expected)
        print(f"{name}: largest difference of a weight after 20 updates: {difference:.1e}")
        assert difference < 1e-5
    losses = [[float(row[1]) for row in loss_log(path)[1:]] for path in (folder, alone)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    grids = [np.asarray(Image.open(path / "samples" / "0001.png")).astype(int) for path in (folder, alone)]
    assert np.abs(grids[0] - grids[1]).max() <= 2  # rounding to 8 bits, then enlarging

    # The same global batch on another number of ranks is the same run: it may be resumed as such.
    moved = tmp_path / "moved"
    shutil.copytree(alone, moved)
    shutil.rmtree(moved / "checkpoint-20")
    flags = ["train", *run_flags, "--train_batch_size", 16, "--output_dir", moved]
    result = run_program("launch", "-n", 2, *flags, "--resume_from_checkpoint", "latest")
    assert result.returncode == 0, result.stderr
    assert "changed: ranks is 2, was 1" in result.stderr
    found = load_file(moved / "checkpoint-20" / "unet" / checkpoint.UNET_WEIGHTS)
    assert max(np.abs(found[key] - value).max() for key, value in
               load_file(alone / "checkpoint-20" / "unet" / checkpoint.UNET_WEIGHTS).items()) < 1e-5  # fmt: skip


def test_a_worker_killed_is_named_all_end_and_the_same_command_goes_on(two_ranks, run_flags, tmp_path):
    reference, _ = two_ranks
    folder = tmp_path / "run"
    # Many steps a second would let the run end before the kill; a checkpoint at every step slows it.
    flags = ["launch", "-n", 2, "train", *run_flags, "--train_batch_size", 16, "--output_dir", folder]
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
    assert_same_end(folder, reference, 20)


def test_told_to_stop_it_writes_a_checkpoint_and_goes_on_to_the_same_end(two_ranks, run_flags, tmp_path):
    reference, _ = two_ranks
    folder = tmp_path / "run"
    flags = ["launch", "-n", 2, "train", *run_flags, "--train_batch_size", 16, "--output_dir", folder]
    process = start(*flags)
    wait_for(lambda: (folder / "logs" / "metrics.csv").exists() and len(loss_log(folder)) > 4)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 143, stderr
    assert "--resume_from_checkpoint auto goes on from there" in stderr and "Traceback" not in stderr
    wait_until_gone(folder)
    assert checkpoint.checkpoints_in(folder)
    assert run_program(*flags, "--resume_from_checkpoint", "auto").returncode == 0
    assert_same_end(folder, reference, 20)


@pytest.mark.parametrize(
    ("how", "message"),
    [("hang", "error: rank 1 has spent"), ("raise", "ValueError: something odd in the data")],
)
def test_a_rank_that_hangs_or_raises_in_its_data_ends_the_job(run_flags, tmp_path, how, message):
    folder = tmp_path / "run"
    script = Path(__file__).parent / "hanging_job.py"
    started = time.monotonic()
    result = run_program(
        "launch", "-n", 2, script, how, *run_flags, "--train_batch_size", 16, "--output_dir", folder,
        "--step_timeout_s", 40,
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
    assert run_program("launch", "-n", 2).returncode == 2
    assert not (tmp_path / "run").exists()


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


class TwoHosts:
    """Two network namespaces joined by a veth pair: as far as the network goes, two machines."""

    names, addresses = ("mddpm0", "mddpm1"), ("10.77.0.1", "10.77.0.2")

    def __enter__(self) -> TwoHosts:
        self.remove()
        self.ip("link", "add", "mddpm-a", "type", "veth", "peer", "name", "mddpm-b")
        for name, device, address in zip(self.names, ("mddpm-a", "mddpm-b"), self.addresses, strict=True):
            self.ip("netns", "add", name)
            self.ip("link", "set", device, "netns", name)
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            self.ip("-n", name, "link", "set", device, "up")
            self.ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", "mddpm-a"], capture_output=True)

    def cut(self) -> None:
        self.ip("-n", self.names[0], "link", "set", "mddpm-a", "down")

    def launch(self, host: int, *job: object) -> subprocess.Popen:
        return subprocess.Popen(
            [
                *("ip", "netns", "exec", self.names[host], sys.executable, "-m", "mindone_ddpm", "launch", "-n", "2"),
                *("--local_workers", "1", "--node_rank", str(host), "--master_addr", self.addresses[0]),
                *map(str, job),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip


@pytest.mark.slow
def test_two_hosts_train_to_the_same_weights_as_two_ranks_on_one(two_ranks, run_flags, tmp_path):
    """Needs root and iproute2."""
    reference, _ = two_ranks
    with TwoHosts() as hosts:
        folders = [tmp_path / "host0", tmp_path / "host1"]  # nothing is shared between them
        flags = ["train", *run_flags, "--train_batch_size", 16]
        processes = [hosts.launch(number, *flags, "--output_dir", folders[number]) for number in (0, 1)]
        for process in processes:
            _, stderr = process.communicate(timeout=200)
            assert process.returncode == 0, stderr
    assert_same_end(folders[0], reference, 20)
    assert not checkpoint.run_products(folders[1])
    for folder in folders:
        wait_until_gone(folder)


@pytest.mark.slow
def test_a_link_cut_in_mid_run_ends_both_hosts(run_flags, tmp_path):
    """Needs root and iproute2."""
    with TwoHosts() as hosts:
        folders = [tmp_path / "host0", tmp_path / "host1"]
        flags = ["train", *run_flags, "--train_batch_size", 16, "--max_train_steps", 100_000, "--step_timeout_s", 30]
        processes = [hosts.launch(number, *flags, "--output_dir", folders[number]) for number in (0, 1)]
        wait_for((folders[0] / "checkpoint-20").exists, 200)
        hosts.cut()
        cut_at = time.monotonic()
        for number, process in enumerate(processes):
            _, stderr = process.communicate(timeout=200)
            print(f"host {number}: {time.monotonic() - cut_at:.1f} s after the cut: {stderr.splitlines()[-1]}")
            assert process.returncode != 0
            assert f"error: rank {number}" in stderr
            wait_until_gone(folders[number])
    newest = checkpoint.checkpoints_in(folders[0])[-1][1]
    checkpoint.read_record(newest)

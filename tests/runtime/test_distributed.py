"""Ranks that train together: what they compute is what one computes alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROGRAMS, SLOW_JOBS, run_program
from PIL import Image
from safetensors.numpy import load_file
from test_checkpoint import assert_same_end, loss_log, wait_for, weight_files
from test_launch import ENVIRONMENT, wait_until_gone
from test_optimizers import adamw_by_hand
from test_step import BETA1, BETA2, DECAY, EPSILON, RATE, START, gradient_by_hand

from mindone_ddpm.models.pipelines import UNET_WEIGHTS
from mindone_ddpm.output import checkpoint, run_folder
from mindone_ddpm.runtime.launch import find_free_port

pytestmark = pytest.mark.distributed


def two_rank_gradient_by_hand(tmp_path: Path, mode: str, device: str, environment: dict[str, str]) -> None:
    """Two updates and an overflow in between, of two ranks with msrun; compared with the numbers worked out here."""
    script = PROGRAMS / "distributed_step.py"
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path}/logs"]
    command += [f"--master_port={find_free_port()}", str(script), str(tmp_path), mode, device]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
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
    assert first["ends"] == [2, 3, 4]
    ramps = [[0, 11], [[0, 11], [22, 33]], [11 * i for i in range(7)], [0, 11, 22]]
    assert first["summed"] == second["summed"] == [*ramps, 2 + 3, 5 + 5]
    assert first["gathered"] == second["gathered"] == [0.25, 0.25, 1.25, 1.25]


@pytest.mark.parametrize("mode", ["graph", pytest.param("pynative", marks=pytest.mark.slow)])
def test_a_two_rank_gradient_by_hand(tmp_path, mode):
    two_rank_gradient_by_hand(tmp_path, mode, "CPU", ENVIRONMENT)


def test_two_ranks_equal_one_with_twice_the_batch(two_ranks, run_flags, tmp_path):
    folder, _ = two_ranks
    alone = tmp_path / "alone"
    assert run_program("train", *run_flags, "--train_batch_size", 32, "--output_dir", alone).returncode == 0
    for name in ("unet", "unet_ema"):
        found = load_file(folder / "checkpoint-20" / name / UNET_WEIGHTS)
        expected = load_file(alone / "checkpoint-20" / name / UNET_WEIGHTS)
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
    found = load_file(moved / "checkpoint-20" / "unet" / UNET_WEIGHTS)
    assert max(np.abs(found[key] - value).max() for key, value in
               load_file(alone / "checkpoint-20" / "unet" / UNET_WEIGHTS).items()) < 1e-5  # fmt: skip


def test_ranks_that_see_different_images_are_refused(tmp_path, small_model):
    for rank in range(2):
        images = tmp_path / str(rank) / "images"
        images.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (rank, number, 0)).save(images / f"{number}.png")
    script = tmp_path / "in_a_folder_of_its_own.py"
    script.write_text(
        f"import os, sys\nos.chdir({str(tmp_path)!r} + '/' + os.environ['RANK_ID'])\n"
        "from mindone_ddpm.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path}/logs"]
    command += [f"--master_port={find_free_port()}", script, "train", "--train_data_dir", "images", "--image_size", 8]
    command += ["--model_config_name_or_path", small_model, "--output_dir", "run", "--train_batch_size", 1]
    subprocess.run([*map(str, command)], env=ENVIRONMENT, capture_output=True, timeout=120)
    logs = [(tmp_path / "logs" / f"worker_{rank}.log").read_text() for rank in range(2)]
    assert all("error: the ranks see different images" in text for text in logs), logs
    assert "on rank 1" in logs[1] and not (tmp_path / "0" / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("job", ["everything", *SLOW_JOBS], indirect=True)
def test_every_job_is_the_same_on_two_ranks(job, tmp_path):
    command, flags = job
    flags = [*flags, "--max_train_steps", 6, "--checkpointing_steps", 6]
    flags += ["--optimizer", "sgd"]  # Adam and Lion make a whole step of a gradient that is rounding alone
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert run_program(command, *flags, "--train_batch_size", 16, "--output_dir", alone).returncode == 0
    result = run_program("launch", "-n", 2, command, *flags, "--train_batch_size", 8, "--output_dir", together)
    assert result.returncode == 0, result.stderr
    networks = [name for name in ("unet", "text_encoder", "new_token") if (alone / "checkpoint-6" / name).exists()]
    assert networks
    for name in [*networks, *(f"{name}_ema" for name in networks)]:
        found, expected = (weight_files(path / "checkpoint-6" / name) for path in (together, alone))
        differences = [
            np.abs(found[file][key] - array).max() for file, arrays in expected.items() for key, array in arrays.items()
        ]
        print(f"{command}, {name}: largest difference of a weight after 6 updates: {max(differences):.1e}")
        assert max(differences) < 1e-6


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
        """On a core of its own, as ranks of one host have, since another number of threads rounds otherwise."""
        cores = sorted(os.sched_getaffinity(0))
        core = str(cores[host % len(cores)])
        return subprocess.Popen(
            [
                *("ip", "netns", "exec", self.names[host], "taskset", "-c", core),
                *(sys.executable, "-m", "mindone_ddpm", "launch", "-n", "2"),
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
    assert not run_folder.run_products(folders[1])
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

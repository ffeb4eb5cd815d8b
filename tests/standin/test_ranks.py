"""Several ranks on the stand-in for CANN: its HCCL, and MindSpore's own way to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from build import build
from conftest import PROGRAMS, run_program
from hccl_rank import MAX, MIN, PROD, SUM, values_of
from PIL import Image
from safetensors.numpy import load_file
from standin import environment, events, run_on_standin
from test_checkpoint import wait_for
from test_distributed import two_rank_gradient_by_hand
from test_launch import assert_nearly_same_end, wait_until_gone, workers_of
from test_launchers import by_rank_table, rank_table, start_ranks

from mindone_ddpm.models.pipelines import UNET_WEIGHTS

pytestmark = pytest.mark.distributed
UPDATES = 4


# ---- the stand-in's collectives, without MindSpore ----


def ranks_of_hccl(what: str, ranks: int, folder: Path, **variables: str) -> list[dict]:
    """What each of some processes got, which call the stand-in's HCCL themselves."""
    program, library = PROGRAMS / "hccl_rank.py", build() / "lib64" / "libascendcl.so"
    started = [
        subprocess.Popen(
            [sys.executable, str(program), str(library), str(rank), str(ranks), what, str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables},
        )
        for rank in range(ranks)
    ]  # fmt: skip
    found = []
    for process in started:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        found.append(json.loads(output))
    return found


def test_reductions_equal_numpys(tmp_path):
    operations = {SUM: np.add, PROD: np.multiply, MAX: np.maximum, MIN: np.minimum}
    found = ranks_of_hccl("reductions", 3, tmp_path)
    for dtype in ("int8", "int32", "int64", "float16", "float32"):
        for op, function in operations.items():
            total = values_of(0, 37, dtype)
            for rank in (1, 2):
                total = function(total, values_of(rank, 37, dtype))  # each partial result in the type of the data
            for one in found:
                np.testing.assert_array_equal(np.array(one[f"{dtype} {op}"], dtype), total, f"{dtype} {op}")
    assert [one["chunks"] for one in found] == [0, 0, 0]


def test_copies_equal_what_was_sent(tmp_path):
    for one in ranks_of_hccl("copies", 2, tmp_path):
        assert all(one.values()) and len(one) == 6, one


def test_what_hccl_refuses_is_told_to_every_rank(tmp_path):
    for one in ranks_of_hccl("errors", 2, tmp_path):
        assert one["float64"][0] == 5 and "HcclAllReduce float64[4] op=0" in one["float64"][1]
        assert one["counts"][0] == 1 and "float32[1]" in one["counts"][1] and "float32[2]" in one["counts"][1]


def test_a_rank_that_does_not_come_is_waited_for_as_long_as_hccl_waits(tmp_path):
    first, _ = ranks_of_hccl("late", 2, tmp_path, HCCL_EXEC_TIMEOUT="2")
    assert first["status"] == 9 and first["name"] == "HCCL_E_TIMEOUT"
    assert "rank 1 did not come within 2 s" in first["said"] and 2 <= first["s"] < 30


def test_groups_and_rank_tables(tmp_path):
    table = {"server_list": [{"device": [{"device_id": str(rank), "rank_id": str(rank)} for rank in range(3)]}]}
    (tmp_path / "table.json").write_text(json.dumps(table))
    found = ranks_of_hccl("groups", 3, tmp_path)
    assert [one["table"] for one in found] == [[0, 3], [1, 3], [2, 3]]
    assert [one.get("part") for one in found] == [1 + 3, None, 1 + 3]
    assert not list(Path("/dev/shm").glob("standin_hccl_*"))


# ---- MindSpore's way to HCCL ----


@pytest.fixture(scope="session")
def rank_flags(digits_flags) -> list[object]:
    """A run of some updates for one rank or more, with no grids: float32, accumulation, clipping, averages."""
    return [
        *digits_flags,
        *("--max_train_steps", UPDATES, "--gradient_accumulation_steps", 2, "--checkpointing_steps", 1),
        *("--logging_steps", 1, "--mixed_precision", "no"),
    ]


@pytest.fixture(scope="session")
def alone(rank_flags, tmp_path_factory) -> Path:
    """That run on one CPU rank, with the batch of both."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    result = run_program("train", "--device", "CPU", *rank_flags, "--train_batch_size", 32, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


def two_npus(mode: str, *flags: object, trace: Path | None = None, **variables: str) -> subprocess.Popen:
    """The launcher with two ranks on the stand-in, in the background."""
    command = [sys.executable, "-m", "mindone_ddpm", "launch", "-n", "2", "train", "--device", "Ascend"]
    return subprocess.Popen(
        [*command, "--mode", mode, *map(str, flags), "--train_batch_size", "16"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment(trace, npus=2), **variables},
    )  # fmt: skip


def finish(process: subprocess.Popen, timeout_s: float = 300) -> tuple[int, str]:
    try:
        _, errors = process.communicate(timeout=timeout_s)
    finally:
        process.terminate()
    return process.returncode, errors


def collectives_of(trace: Path) -> list[str]:
    return [f"{event.name} {event.arguments}" for event in events(trace) if event.kind == "collective"]


def joined(calls: list[str]) -> list[str]:
    """Which ranks have joined. A rank may have called something before the other has written that it joined."""
    return sorted(call for call in calls if call.startswith("join"))


@pytest.mark.parametrize("mode", ["graph", pytest.param("pynative", marks=pytest.mark.slow)])
def test_two_npus_equal_one_cpu(alone, rank_flags, tmp_path, mode):
    folder, trace = tmp_path / "run", tmp_path / "trace"
    status, errors = finish(two_npus(mode, *rank_flags, "--output_dir", folder, trace=trace))
    assert status == 0, errors
    assert f"device: Ascend, {mode} mode" in errors and "2 device(s) = 64" in errors
    assert_nearly_same_end(folder, alone, UPDATES)
    calls = collectives_of(trace)
    assert joined(calls) == ["join 0 of 2", "join 1 of 2"]
    reduced = [call for call in calls if call.startswith("HcclAllReduce")]
    # An update sums all gradients, loss and weight in one vector. The rest are single numbers, such as a wish to stop.
    weights = sum(array.size for array in load_file(folder / "unet" / UNET_WEIGHTS).values())
    assert reduced.count(f"HcclAllReduce float32[{weights + 2}] op=0") == 2 * UPDATES
    assert {call for call in reduced if "[1]" not in call} == {f"HcclAllReduce float32[{weights + 2}] op=0"}
    wait_until_gone(folder)


@pytest.mark.slow
def test_two_npus_of_a_rank_table_equal_one_cpu(alone, rank_flags, tmp_path):
    """As ModelArts starts them, without msrun: see docs/clusters.md."""
    table, folder = rank_table(tmp_path / "table.json", _127_0_0_1=[0, 1]), tmp_path / "run"
    flags = ["train", "--device", "Ascend", *rank_flags, "--train_batch_size", 16, "--output_dir", folder]
    environments = [{**environment(tmp_path / "trace", npus=2), **by_rank_table(table, rank)} for rank in (0, 1)]
    for status, _, errors in start_ranks(environments, *flags):
        assert status == 0, errors
    assert_nearly_same_end(folder, alone, UPDATES)
    assert joined(collectives_of(tmp_path / "trace")) == ["join 0 of 2", "join 1 of 2"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_two_npus_one_killed_and_resumed_equal_one_cpu(alone, rank_flags, tmp_path, mode):
    folder = tmp_path / "run"
    process = two_npus(mode, *rank_flags, "--output_dir", folder)
    wait_for((folder / "checkpoint-2").exists, 200)
    workers_of(folder)[1].kill()
    killed_at = time.monotonic()
    status, errors = finish(process, 60)
    print(f"{mode}: seconds from the kill to the end: {time.monotonic() - killed_at:.1f}")
    assert status == 128 + 9
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: rank 1 was killed by signal 9"), errors
    wait_until_gone(folder)
    status, errors = finish(two_npus(mode, *rank_flags, "--output_dir", folder, "--resume_from_checkpoint", "auto"))
    assert status == 0, errors
    assert_nearly_same_end(folder, alone, UPDATES)
    wait_until_gone(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_a_two_rank_gradient_by_hand_on_npus(tmp_path, mode):
    """With an update in which one rank alone overflows: both skip it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    two_rank_gradient_by_hand(tmp_path, mode, "Ascend", {**environment(npus=2), "PATH": path})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_told_to_stop_two_npus_write_a_checkpoint_and_go_on_to_the_same_end(alone, rank_flags, tmp_path, mode):
    folder = tmp_path / "run"
    process = two_npus(mode, *rank_flags, "--output_dir", folder)
    wait_for((folder / "checkpoint-2").exists, 200)
    process.send_signal(signal.SIGTERM)
    status, errors = finish(process)
    assert status == 143 and "Traceback" not in errors, errors
    wait_until_gone(folder)
    status, errors = finish(two_npus(mode, *rank_flags, "--output_dir", folder, "--resume_from_checkpoint", "auto"))
    assert status == 0, errors
    assert_nearly_same_end(folder, alone, UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize("limit", ["hccl", "step"])
def test_a_rank_that_hangs_ends_the_job(rank_flags, tmp_path, mode, limit):
    """The other waits in a collective, until HCCL gives up, or this package's own limit for a step is over."""
    folder = tmp_path / "run"
    limits = {"hccl": ("8", 600), "step": ("1836", 60)}[limit]  # the first step is compiled within it
    flags = [*rank_flags, "--max_train_steps", 100_000, "--step_timeout_s", limits[1], "--output_dir", folder]
    process = two_npus(mode, *flags, HCCL_EXEC_TIMEOUT=limits[0])
    wait_for((folder / "checkpoint-4").exists, 200)
    workers_of(folder)[1].suspend()
    hung_at = time.monotonic()
    status, errors = finish(process, 200)
    last = errors.strip().splitlines()[-1]
    print(f"{mode}, {limit}: {time.monotonic() - hung_at:.1f} s after the hang: {last}")
    assert status == 1 and last.startswith("error: rank 0 ended with status 1: "), errors
    expected = {"hccl": "rank 1 did not come within 8 s", "step": "error: rank 0 has spent"}[limit]
    assert expected in (folder / "logs" / "workers" / "worker_0.log").read_text()
    wait_until_gone(folder)


@pytest.mark.slow
def test_two_npus_in_fp16_equal_one_with_twice_the_batch(rank_flags, tmp_path):
    """Half precision on both: what differs is where the float32 gradients are added."""
    flags = [*rank_flags, "--mixed_precision", "fp16", "--train_batch_size"]
    one = run_on_standin(
        "-m", "mindone_ddpm", "train", "--device", "Ascend", *flags, 32, "--output_dir", tmp_path / "one"
    )
    assert one.returncode == 0, one.stderr
    status, errors = finish(two_npus("graph", *flags, 16, "--output_dir", tmp_path / "two"))
    assert status == 0, errors
    assert_nearly_same_end(tmp_path / "two", tmp_path / "one", UPDATES, loss=2e-3, weight=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_images_drawn_by_two_npus_equal_those_of_one_cpu(run_flags, tmp_path, mode):
    """Samples are split over the ranks and gathered, through HCCL's AllGather."""
    flags = [*run_flags, "--max_train_steps", 4, "--mixed_precision", "no"]
    status, errors = finish(two_npus(mode, *flags, "--output_dir", tmp_path / "two"))
    assert status == 0, errors
    result = run_program("train", "--device", "CPU", *flags, "--train_batch_size", 32, "--output_dir", tmp_path / "one")
    assert result.returncode == 0, result.stderr
    grids = [sorted((tmp_path / name / "samples").glob("*.png")) for name in ("two", "one")]
    assert [path.name for path in grids[0]] == [path.name for path in grids[1]] and grids[0]
    for paths in zip(*grids, strict=True):
        images = [np.asarray(Image.open(path)).astype(int) for path in paths]
        assert np.abs(images[0] - images[1]).max() <= 2  # rounding to 8 bits, then enlarging

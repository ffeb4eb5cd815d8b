"""Ranks that were started without msrun: from a rank table, or by Open MPI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_program
from test_checkpoint import assert_same_end

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.runtime.launchers import ranks_of


def rank_table(path: Path, **servers: list[int]) -> Path:
    """A rank table of version 1.0; ``servers`` are ranks by address, with ``_`` for its dots."""
    table = [
        {
            "server_id": address.strip("_").replace("_", "."),
            "device": [
                {"device_id": str(place), "device_ip": f"192.1.0.{rank}", "rank_id": str(rank)}
                for place, rank in enumerate(ranks)
            ],
        }
        for address, ranks in servers.items()
    ]
    path.write_text(json.dumps({"version": "1.0", "server_count": str(len(table)), "server_list": table}))
    return path


def by_rank_table(path: Path, rank: int, size: int = 2) -> dict[str, str]:
    return {"RANK_TABLE_FILE": str(path), "RANK_ID": str(rank), "RANK_SIZE": str(size), "DEVICE_ID": str(rank)}


def by_open_mpi(rank: int, size: int = 2, local_size: int = 2) -> dict[str, str]:
    world = {"RANK": rank, "SIZE": size, "LOCAL_RANK": rank % local_size, "LOCAL_SIZE": local_size}
    variables = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in world.items()}
    return {**variables, "OMPI_COMMAND": "python", "PMIX_RANK": str(rank), "PMIX_NAMESPACE": f"test-{os.getpid()}"}


def start_ranks(environments: list[dict[str, str]], *arguments: object) -> list[tuple[int, str, str]]:
    """Status, output and errors of one process for each environment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mindone_ddpm", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        for environment in environments
    ]
    try:
        said = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.mark.distributed
def test_ranks_of_a_rank_table_are_one_run(two_ranks, run_flags, tmp_path):
    table = rank_table(tmp_path / "table.json", _127_0_0_1=[0, 1])
    folder = tmp_path / "run"
    flags = ["train", *run_flags, "--train_batch_size", 16, "--output_dir", folder]
    (status, said, errors), (other, _, other_errors) = start_ranks(
        [by_rank_table(table, rank) for rank in (0, 1)], *flags
    )
    assert (status, other) == (0, 0), errors + other_errors
    assert "2 device(s) = 64" in said + errors and "trained; the pipeline is in" in said
    assert_same_end(folder, two_ranks[0], 20)


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_of_open_mpi_are_one_run(run_flags, tmp_path):
    flags = ["train", *run_flags, "--train_batch_size", 16, "--output_dir", tmp_path / "run", "--dry_run"]
    for status, said, errors in start_ranks([by_open_mpi(rank) for rank in (0, 1)], *flags):
        assert status == 0, errors
        assert "2 device(s) = 64" in said + errors


def test_a_rank_that_cannot_find_the_others_is_refused_in_one_line(run_flags, tmp_path):
    def refused(environment: dict[str, str], *arguments: object) -> str:
        flags = arguments or ("train", *run_flags, "--output_dir", tmp_path / "run")
        result = run_program(*flags, **environment)
        assert result.returncode == 2 and not (tmp_path / "run").exists()
        assert len(result.stderr.splitlines()) == 1, result.stderr
        return result.stderr

    assert "RANK_SIZE=2: one of several ranks, but RANK_TABLE_FILE" in refused({"RANK_ID": "0", "RANK_SIZE": "2"})
    several_machines = refused(by_open_mpi(0, size=4))
    assert "mpirun -x MS_SCHED_HOST=ADDRESS" in several_machines and "mindone-ddpm launch" in several_machines
    command = ("sample", "--model", tmp_path, "--output_dir", tmp_path / "run")
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    assert "this runs on one rank, and was started as 2 ranks" in refused(by_open_mpi(1), *command)


def problem(environment: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        ranks_of(environment)
    return str(caught.value)


def test_a_rank_table_that_does_not_fit(tmp_path):
    table = rank_table(tmp_path / "table.json", _10_0_0_1=[0, 1], _10_0_0_2=[2, 3])
    assert "has 4 ranks, RANK_SIZE is 2" in problem(by_rank_table(table, 0))
    assert "RANK_ID=4: must be below the number of ranks, 4" in problem(by_rank_table(table, 4, size=4))
    assert "RANK_ID: must be an integer of at least 0, it is one" in problem(
        {**by_rank_table(table, 0, size=4), "RANK_ID": "one"}
    )
    assert "no.json: cannot be read (No such file" in problem(by_rank_table(tmp_path / "no.json", 0))
    (tmp_path / "old.json").write_text('{"version": "0.1", "group_list": []}')
    assert "is no rank table of version 1.0" in problem(by_rank_table(tmp_path / "old.json", 0))


def test_every_rank_of_a_rank_table_finds_the_same_scheduler(tmp_path):
    table = rank_table(tmp_path / "table.json", _10_0_0_1=[2, 3], _10_0_0_2=[0, 1])
    found = [ranks_of(by_rank_table(table, rank, size=4)) for rank in range(4)]
    assert [one.local_rank for one in found] == [0, 1, 0, 1] and {one.host for one in found} == {"10.0.0.2"}
    assert len({one.port for one in found}) == 1 and 12000 <= found[0].port < 32000
    assert [one.device for one in found] == [0, 1, 2, 3]  # DEVICE_ID
    own = ranks_of({**by_rank_table(table, 3, size=4), "MS_SCHED_HOST": "main.example"})
    assert own.host == "main.example"
    alone = {"RANK_TABLE_FILE": str(table), "RANK_ID": "0", "RANK_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "1"}
    assert ranks_of(alone) is None and ranks_of({"RANK_ID": "0"}) is None


@pytest.mark.parametrize(
    "content",
    ['[{"server_list": []}]', '{"server_list": [1]}', '{"server_list": 5}', "[" * 10_000, "\x00", "{", "9" * 5000,
     '{"server_list": [{"server_id": "a", "device": [{"rank_id": Infinity}]}]}'],
)  # fmt: skip
def test_a_damaged_rank_table(tmp_path, content):
    (tmp_path / "table.json").write_text(content)
    assert "is no rank table of version 1.0" in problem(by_rank_table(tmp_path / "table.json", 0))

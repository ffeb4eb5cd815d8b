"""Ranks that were started without msrun: from a rank table, as ModelArts does, or by Open MPI.

Such a launcher tells each process its rank in environment variables. They are translated into those of MindSpore's own
cluster, which msrun sets, and rank 0 starts the cluster's scheduler. MindSpore could read a rank table itself, but then
sets ``jit_level`` to O2, which is deprecated since 2.9; its own start under Open MPI requires ``libmpi.so.40``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindone_ddpm.backends.choose import max_local_ranks
from mindone_ddpm.common.errors import ConfigError, UserError, first_line
from mindone_ddpm.common.json_files import read_table

CLUSTER_TIMEOUT_S = 300
ADDRESS_KEYS = ("pod_ip", "container_ip", "server_id")  # of a server in a rank table, the best first
INSTEAD = "or start one `mindone-ddpm launch` on each machine (docs/clusters.md)"


class SchedulerError(UserError):
    """Rank 0 cannot start the cluster's scheduler."""


@dataclass(frozen=True)
class Ranks:
    """What a launcher says of this process.

    Attributes:
        rank: among all, from 0.
        size: the number of processes.
        local_rank: among those of this machine, from 0.
        local_size: their number.
        device: the NPU of this process.
        host: where rank 0 runs.
        job: tells jobs on one machine apart.
        source: the variables that said so, for messages.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: int
    host: str
    job: str
    source: str

    @property
    def port(self) -> int:
        """The scheduler's, the same on every rank; below those that the system gives to outgoing connections."""
        return 12000 + zlib.crc32(self.job.encode()) % 20000

    def variables(self) -> dict[str, str]:
        """The environment of a worker of MindSpore's cluster. ``MS_SCHED_*`` that the user has set stay."""
        local_ranks = {} if max_local_ranks() else {"MINDONE_DDPM_LOCAL_RANKS": str(self.local_size)}
        ours = {"MS_SCHED_HOST": self.host, "MS_SCHED_PORT": str(self.port), "MS_TOPO_TIMEOUT": str(CLUSTER_TIMEOUT_S)}
        return {
            **{name: os.environ.get(name, value) for name, value in ours.items()},
            **{"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(self.rank), "MS_WORKER_NUM": str(self.size)},
            **{"RANK_ID": str(self.rank), "RANK_SIZE": str(self.size), "DEVICE_ID": str(self.device)},
            **local_ranks,
        }


_adopted: Ranks | None = None


def launched() -> bool:
    """Whether this process is a rank, or the scheduler, of MindSpore's cluster."""
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")


def adopt_launcher() -> None:
    """If another launcher than msrun has started this process as one of several ranks, make it one of the cluster.

    Raises:
        ConfigError: it is one of several, but cannot find the others. Every rank finds the same.
    """
    global _adopted
    if launched():
        return
    ranks = ranks_of(os.environ)
    if ranks is None:
        return
    os.environ.update(ranks.variables())
    os.environ.pop("OMPI_COMMAND", None)  # by which MindSpore recognises Open MPI
    _adopted = ranks


def leave_cluster(status: int) -> None:
    """End this process, if :func:`adopt_launcher` has made it a rank: MindSpore crashes now and then when it takes the
    cluster down after the work is done, and the launcher would take that for a failure."""
    if _adopted is not None and "mindspore" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def adopted() -> Ranks | None:
    """What :func:`adopt_launcher` has found."""
    return _adopted


def ranks_of(environment: Mapping[str, str]) -> Ranks | None:
    """What the variables of a launcher say; None if this process is alone.

    Raises:
        ConfigError: they say that it is one of several, but not which, or not where the others are.
    """
    if _number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        return _of_open_mpi(environment)
    if _number(environment, "RANK_SIZE", 1) > 1:
        return _of_rank_table(environment)
    return None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise ConfigError(f"{name}: must be an integer of at least 0, it is {text or 'not set'}")
    return int(text)


def _rank(environment: Mapping[str, str], name: str, size: int) -> int:
    rank = _number(environment, name)
    if rank >= size:
        raise ConfigError(f"{name}={rank}: must be below the number of ranks, {size}")
    return rank


def _of_open_mpi(environment: Mapping[str, str]) -> Ranks:
    size = _number(environment, "OMPI_COMM_WORLD_SIZE")
    rank = _rank(environment, "OMPI_COMM_WORLD_RANK", size)
    local_rank = _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK")
    local_size = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
    host = environment.get("MS_SCHED_HOST") or ("127.0.0.1" if local_size == size else None)
    if host is None:
        raise ConfigError(
            f"OMPI_COMM_WORLD_SIZE={size}: the ranks are on several machines; give the address of rank 0's with "
            f"`mpirun -x MS_SCHED_HOST=ADDRESS`, {INSTEAD}"
        )
    job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid") or "mpirun"
    device = _number(environment, "DEVICE_ID", local_rank)
    return Ranks(rank, size, local_rank, local_size, device, host, job, "OMPI_COMM_WORLD_RANK and _SIZE")


def _of_rank_table(environment: Mapping[str, str]) -> Ranks:
    size = _number(environment, "RANK_SIZE")
    path = environment.get("RANK_TABLE_FILE") or environment.get("MINDSPORE_HCCL_CONFIG_PATH")
    if not path:
        raise ConfigError(
            f"RANK_SIZE={size}: one of several ranks, but RANK_TABLE_FILE does not say where the others are; set it, "
            f"unset RANK_SIZE for a single run, {INSTEAD}"
        )
    rank = _rank(environment, "RANK_ID", size)
    servers, content = _servers(Path(path))
    found = sorted(one for ranks in servers.values() for one in ranks)
    if found != list(range(size)):
        raise ConfigError(f"RANK_TABLE_FILE={path}: has {len(found)} ranks, RANK_SIZE is {size}; they must agree")
    mine = next(ranks for ranks in servers.values() if rank in ranks)
    first = next(address for address, ranks in servers.items() if 0 in ranks)
    local_rank = sorted(mine).index(rank)
    device = _number(environment, "DEVICE_ID", _number(environment, "ASCEND_DEVICE_ID", local_rank))
    host = environment.get("MS_SCHED_HOST") or ("127.0.0.1" if len(servers) == 1 else first)
    return Ranks(rank, size, local_rank, len(mine), device, host, content, "RANK_ID, RANK_SIZE and RANK_TABLE_FILE")


def _servers(path: Path) -> tuple[dict[str, list[int]], str]:
    """The ranks of each server by its address, from a rank table of version 1.0, and its list of servers as text."""
    try:
        table = read_table(path)["server_list"]
        servers: dict[str, list[int]] = {}
        for server in table:
            address = next(str(server[key]) for key in ADDRESS_KEYS if server.get(key))
            servers.setdefault(address, []).extend(int(device["rank_id"]) for device in server["device"])
    except OSError as error:
        raise ConfigError(f"RANK_TABLE_FILE={path}: cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, StopIteration) as error:
        raise ConfigError(
            f"RANK_TABLE_FILE={path}: is no rank table of version 1.0, with server_list, server_id, device and rank_id "
            f"({type(error).__name__}: {first_line(error)}); convert it, {INSTEAD}"
        ) from error
    return servers, json.dumps(table, sort_keys=True)


def start_scheduler() -> None:
    """Start the cluster's scheduler, if this is rank 0 and nobody else has. It ends with the ranks.

    Raises:
        SchedulerError: it could not listen at its address.
    """
    if _adopted is None or _adopted.rank != 0:
        return
    host, port = os.environ["MS_SCHED_HOST"], os.environ["MS_SCHED_PORT"]
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, ValueError, OverflowError) as error:
        raise SchedulerError(
            f"rank 0 cannot listen at {host}:{port} ({first_line(error)}); set MS_SCHED_HOST to an address of its "
            "machine, and MS_SCHED_PORT to a free port, the same on every rank"
        ) from error
    subprocess.Popen(
        [sys.executable, "-m", "mindone_ddpm.runtime.scheduler"],
        env={**os.environ, "MS_ROLE": "MS_SCHED"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

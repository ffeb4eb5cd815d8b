"""Ranks that wait for each other, here as threads of one process."""

from __future__ import annotations

import queue
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_launch import ENVIRONMENT

from mindone_ddpm.backends.cpu import rendezvous
from mindone_ddpm.backends.cpu.rendezvous import RankLostError, SocketRendezvous
from mindone_ddpm.runtime.launch import find_free_port


def connected(world_size: int, told: queue.Queue | None = None) -> list[SocketRendezvous]:
    """One for each rank; ``told`` receives port and key before any rank connects."""
    shared: list[list[int]] = []
    is_told = threading.Event()

    def broadcast(rank):
        def exchange(values):
            if rank == 0:
                shared.append(values)
                if told is not None:
                    told.put(values)
                    time.sleep(0.3)
                is_told.set()
            is_told.wait()
            return shared[0]

        return exchange

    with ThreadPoolExecutor(world_size) as pool:
        made = [
            pool.submit(SocketRendezvous, rank, world_size, "127.0.0.1", broadcast(rank)) for rank in range(world_size)
        ]
        return [future.result(20) for future in made]


def test_nobody_goes_on_before_the_last_has_come():
    ranks, order = connected(3), []

    def run(rank: int) -> None:
        for place in range(5):
            time.sleep(0.05 * ((rank + place) % 3))
            order.append(place)
            ranks[rank].wait()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))
    assert order == sorted(order) and len(order) == 15


def test_one_that_has_ended_is_named(monkeypatch):
    monkeypatch.setattr(rendezvous, "LAUNCHER_S", 0.0)
    main, other, third = connected(3)
    other.peers[0].close()
    with pytest.raises(RankLostError, match="rank 1 has ended"):
        main.wait()
    for peer in main.peers.values():
        peer.close()
    with pytest.raises(RankLostError, match="rank 0 has ended"):
        third.wait()


def test_strangers_are_sent_away():
    told: queue.Queue = queue.Queue()

    def intrude() -> None:
        port = int(told.get()[0])
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"x" * 20)
            assert stranger.recv(1) == b""

    with ThreadPoolExecutor(1) as pool:
        intruder = pool.submit(intrude)
        main, other = connected(2, told)
        intruder.result(20)
    assert main.peers.keys() == {1}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.wait)
        main.wait()
        waiting.result(20)


PROGRAM = """
import sys, time
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import start
here = start("CPU", "graph", 0)
if here.rank == 0:
    time.sleep(40)
distributed.barrier(here)
print("together again")
"""


@pytest.mark.slow
def test_a_wait_longer_than_mindspores_own_limit(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path}/logs"]
    command += ["--master_addr=127.0.0.1", f"--master_port={find_free_port()}", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    assert result.returncode == 0, result.stdout
    for rank in (0, 1):
        assert "together again" in (tmp_path / "logs" / f"worker_{rank}.log").read_text()

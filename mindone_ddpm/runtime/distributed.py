"""Collectives between the ranks of a job, and a watchdog for each rank. With one rank, all of them do nothing.

Every rank must call the same ones in the same order. MindSpore's CPU collectives support float32 and float16 only, so
everything is sent as float32, which represents bytes and integers below 2^24 exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from mindone_ddpm.runtime.start import Runtime


def _sum(values: np.ndarray) -> np.ndarray:
    return ops.AllReduce()(ms.Tensor(values.astype(np.float32))).asnumpy()


def _from_main(values: np.ndarray) -> np.ndarray:
    return ops.Broadcast(0)((ms.Tensor(values.astype(np.float32)),))[0].asnumpy()


def sync_ranks(runtime: Runtime) -> None:
    """Before a collective: wait until every rank is about to call it, where it would not wait long enough itself."""
    if runtime.rendezvous is not None:
        runtime.rendezvous.wait()


def barrier(runtime: Runtime) -> None:
    """Wait until every rank is here."""
    if runtime.world_size > 1:
        sync_ranks(runtime)
        _sum(np.zeros(1))


def any_rank(runtime: Runtime, value: bool) -> bool:
    """Whether ``value`` is true on at least one rank."""
    if runtime.world_size == 1:
        return value
    sync_ranks(runtime)
    return bool(_sum(np.array([value]))[0] > 0)


@contextlib.contextmanager
def main_first(runtime: Runtime) -> Iterator[None]:
    """The first rank of each machine runs the block first, then the others, which find what it has put in a cache."""
    if runtime.world_size > 1 and runtime.local_rank != 0:
        barrier(runtime)
    yield
    if runtime.world_size > 1 and runtime.local_rank == 0:
        barrier(runtime)


def broadcast_object(runtime: Runtime, value: Any) -> Any:
    """The main rank's ``value``, which must be JSON, on every rank."""
    if runtime.world_size == 1:
        return value
    sync_ranks(runtime)
    content = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8) if runtime.is_main else np.zeros(0, np.uint8)
    high, low = divmod(len(content), 1 << 16)
    high, low = (int(part) for part in _from_main(np.array([high, low])))
    size = high << 16 | low
    sent = content if runtime.is_main else np.zeros(size, np.uint8)
    return json.loads(_from_main(sent).astype(np.uint8).tobytes())


def broadcast_parameters(runtime: Runtime, parameters: Iterable[ms.Parameter]) -> None:
    """Set every rank's parameters to the main rank's. Integers must be below 2^24."""
    if runtime.world_size == 1:
        return
    sync_ranks(runtime)
    for parameter in parameters:
        # Broadcast takes no tensor of shape ().
        values = _from_main(np.atleast_1d(parameter.asnumpy()))
        value = ms.Tensor(values.reshape(parameter.shape), parameter.dtype)
        ops.assign(parameter, value)  # in place: it may be a view


def gather_rows(runtime: Runtime, rows: np.ndarray) -> np.ndarray:
    """The float32 ``rows`` of all ranks, concatenated by rank. Every rank must give the same number of rows."""
    if runtime.world_size == 1:
        return rows
    sync_ranks(runtime)
    return ops.AllGather()(ms.Tensor(rows)).asnumpy()


def sum_exactly(runtime: Runtime, values: np.ndarray) -> np.ndarray:
    """The sum over the ranks of finite float64 ``values``, added in float64 in the order of the ranks.

    A float64 is sent as three float32, which hold all of its digits.
    """
    if runtime.world_size == 1:
        return values
    rest, parts = np.atleast_1d(values).astype(np.float64), []
    for _ in range(3):
        parts.append(rest.astype(np.float32))
        rest = rest - parts[-1]
    gathered = [gather_rows(runtime, part[None]).astype(np.float64) for part in parts]
    return sum(gathered[1:], gathered[0]).sum(0).reshape(np.shape(values))


def gather_any(runtime: Runtime, rows: np.ndarray) -> np.ndarray:
    """Like :func:`gather_rows`, where ranks may give different numbers of rows."""
    if runtime.world_size == 1:
        return rows
    counts = gather_rows(runtime, np.array([len(rows)], np.float32)).astype(int)
    padded = np.zeros((counts.max(), *rows.shape[1:]), np.float32)
    padded[: len(rows)] = rows
    parts = gather_rows(runtime, padded).reshape(len(counts), *padded.shape)
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])


class Watchdog:
    """Ends this rank when one of its phases takes too long: when a rank has ended or hangs, the others wait for it.

    The wait for data has a shorter limit, so that the rank that hangs there is the one that reports it.
    """

    def __init__(self, runtime: Runtime, limit_s: float):
        self.runtime, self.limit_s = runtime, limit_s
        self.phase, self.since, self.limit = "starting", time.monotonic(), float("inf")
        if runtime.world_size > 1:
            threading.Thread(target=self._run, daemon=True, name="watchdog").start()

    def enter(self, phase: str, share_of_limit: float = 1.0) -> None:
        self.phase, self.since, self.limit = phase, time.monotonic(), self.limit_s * share_of_limit

    def leave(self) -> None:
        self.limit = float("inf")

    def _run(self) -> None:
        while True:
            time.sleep(min(1.0, self.limit_s / 10))
            spent = time.monotonic() - self.since
            if spent > self.limit:
                print(
                    f"error: rank {self.runtime.rank} has spent {spent:.0f} s {self.phase}; leaving "
                    "(--step_timeout_s sets the limit)",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

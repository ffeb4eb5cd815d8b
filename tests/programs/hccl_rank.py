"""Run by tests/standin/test_ranks.py: one rank that calls the stand-in's HCCL itself, without MindSpore.

    hccl_rank.py <libascendcl.so> <rank> <ranks> <what> <folder>

Prints a line of JSON with what it got.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np

TYPES = {"int8": 0, "int16": 1, "int32": 2, "float16": 3, "float32": 4, "int64": 5, "uint8": 7, "float64": 10}
SUM, PROD, MAX, MIN = range(4)
library, rank, ranks, folder, comm = ctypes.CDLL(None), 0, 0, Path(), ctypes.c_void_p()  # set at the end


def pointer(values):
    return ctypes.c_void_p(values.ctypes.data)


def call(name, *arguments):
    return getattr(library, name)(*arguments, comm, None)


def values_of(source, count, dtype):
    """What rank ``source`` contributes; the test makes the same."""
    values = np.random.default_rng(source).normal(0, 3, count)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(values).astype(dtype)


def join():
    """A communicator of all; the root that rank 0 makes goes to the others in a file."""
    path = folder / "root"
    root = ctypes.create_string_buffer(4108)
    if rank == 0:
        assert library.HcclGetRootInfo(root) == 0
        path.with_suffix(".new").write_bytes(root.raw)
        path.with_suffix(".new").rename(path)
    while not path.exists():
        time.sleep(0.01)
    made = ctypes.c_void_p()
    assert library.HcclCommInitRootInfo(ranks, path.read_bytes(), rank, ctypes.byref(made)) == 0
    return made


def reductions():
    """Every type and operation that HCCL has; then one in several chunks of the shared memory."""
    found = {}
    for dtype in ("int8", "int32", "int64", "float16", "float32"):
        for op in (SUM, PROD, MAX, MIN):
            send, got = values_of(rank, 37, dtype), np.zeros(37, dtype)
            assert call("HcclAllReduce", pointer(send), pointer(got), ctypes.c_uint64(37), TYPES[dtype], op) == 0
            found[f"{dtype} {op}"] = got.tolist()
    count = 2_500_001
    send, got = values_of(rank, count, "float32"), np.zeros(count, "float32")
    assert call("HcclAllReduce", pointer(send), pointer(got), ctypes.c_uint64(count), TYPES["float32"], SUM) == 0
    total = sum(values_of(source, count, "float32") for source in range(ranks))
    found["chunks"] = float(np.abs(got - total).max())
    return found


def copies():
    found, count = {}, 1_500_001  # six megabytes: more than a slot
    mine = values_of(rank, count, "float32")
    everything = np.concatenate([values_of(source, count, "float32") for source in range(ranks)])
    got = np.zeros(count * ranks, "float32")
    assert call("HcclAllGather", pointer(mine), pointer(got), ctypes.c_uint64(count), TYPES["float32"]) == 0
    found["gather"] = bool((got == everything).all())
    got = mine.copy()
    assert call("HcclBroadcast", pointer(got), ctypes.c_uint64(count), TYPES["float32"], 1) == 0
    found["broadcast"] = bool((got == values_of(1, count, "float32")).all())
    spread, got = everything * (rank + 1), np.zeros(count, "float32")
    arguments = (pointer(spread), pointer(got), ctypes.c_uint64(count), TYPES["float32"])
    assert call("HcclReduceScatter", *arguments, SUM) == 0
    share = values_of(rank, count, "float32")
    found["reduce_scatter"] = bool((got == sum(share * (source + 1) for source in range(ranks))).all())
    got[:] = 0
    assert call("HcclScatter", *arguments, 0) == 0  # rank 0 sends everything times 1
    found["scatter"] = bool((got == share).all())
    got[:] = 0
    assert call("HcclReduce", pointer(mine), pointer(got), ctypes.c_uint64(count), TYPES["float32"], MAX, 1) == 0
    largest = np.max([values_of(source, count, "float32") for source in range(ranks)], 0)
    found["reduce"] = bool((got == (largest if rank == 1 else 0)).all())
    octets = values_of(rank, 5, "uint8")
    assert call("HcclBroadcast", pointer(octets), ctypes.c_uint64(5), TYPES["uint8"], 0) == 0
    found["octets"] = bool((octets == values_of(0, 5, "uint8")).all())
    assert call("HcclBarrier") == 0
    return found


def errors():
    """What HCCL refuses; each rank is told, and none waits."""
    values = np.zeros(4)
    doubles = call("HcclAllReduce", pointer(values), pointer(values), ctypes.c_uint64(4), TYPES["float64"], SUM)
    doubles_said = library.aclGetRecentErrMsg().decode()
    counts = call("HcclAllReduce", pointer(values), pointer(values), ctypes.c_uint64(1 + rank), TYPES["float32"], SUM)
    return {"float64": [doubles, doubles_said], "counts": [counts, library.aclGetRecentErrMsg().decode()]}


def late():
    """Rank 1 never comes: the others are told after HCCL_EXEC_TIMEOUT."""
    if rank == 1:
        time.sleep(4)
        return {}
    began = time.monotonic()
    status, state = call("HcclBarrier"), ctypes.c_int()
    assert library.HcclGetCommAsyncError(comm, ctypes.byref(state)) == 0
    name = library.HcclGetErrorString(state).decode()
    return {
        "status": status,
        "name": name,
        "s": time.monotonic() - began,
        "said": library.aclGetRecentErrMsg().decode(),
    }


def groups():
    """A part of the ranks, from the whole; and all of them by a rank table."""
    table = folder / "table.json"
    members = (ctypes.c_uint32 * 2)(0, 2)
    part, whole, found = ctypes.c_void_p(), ctypes.c_void_p(), {}
    if rank in (0, 2):
        status = library.HcclCreateSubCommConfig(
            ctypes.byref(comm), 2, members, ctypes.c_uint64(7), [0, 2].index(rank), None, ctypes.byref(part)
        )
        got = np.zeros(1, "int32")
        mine = pointer(np.array([rank + 1], "int32"))
        assert status == 0
        assert library.HcclAllReduce(mine, pointer(got), ctypes.c_uint64(1), TYPES["int32"], SUM, part, None) == 0
        found["part"] = int(got[0])
    assert library.HcclCommInitClusterInfo(str(table).encode(), rank, ctypes.byref(whole)) == 0
    size, number = ctypes.c_uint32(), ctypes.c_uint32()
    library.HcclGetRankSize(whole, ctypes.byref(size))
    library.HcclGetRankId(whole, ctypes.byref(number))
    assert library.HcclBarrier(whole, None) == 0
    return {**found, "table": [number.value, size.value]}


if __name__ == "__main__":
    library, rank, ranks, folder = ctypes.CDLL(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[5])
    library.HcclGetErrorString.restype = library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    comm = join()
    programs = {"reductions": reductions, "copies": copies, "errors": errors, "late": late, "groups": groups}
    print(json.dumps(programs[sys.argv[4]]()))

"""Runs the cases of rehearsal_cases.py through the command line on the stand-in for CANN and on the CPU, and compares.

    python tests/standin/rehearsal.py [--list] [--folder FOLDER] [CASE ...]

Each device has a process of its own, in which ``mindone_ddpm.cli.main`` runs one case after another. If a process dies,
the case at hand has failed and another process goes on with the next.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from rehearsal_cases import CASES, DEVICES, Case  # noqa: E402
from standin import StandInError, environment  # noqa: E402

CASE_LIMIT_S = 900
RESULT = "result.json"  # of a case on a device: written when it has ended


# --- running -------------------------------------------------------------------------------------------------------


def run_here(case: Case, folder: Path, device: str) -> None:
    """Run a case's commands in this process; what they print goes to log.txt, how they ended to result.json."""
    from mindone_ddpm.cli import main

    out = folder / device / case.name
    out.mkdir(parents=True)
    began, status = time.perf_counter(), 0
    with open(out / "log.txt", "w") as log, everything_printed_to(log.fileno()):
        for command in case.commands:
            line = [word.format(inputs=folder / "inputs", out=out) for word in command]
            if device == "CPU" and line[0].startswith("train"):
                line += case.on_cpu
            print("mindone-ddpm", *line, "--device", device, flush=True)
            try:
                status = main([*line, "--device", device])
            except SystemExit as error:  # of argparse
                status = int(error.code or 0)
            except Exception:
                import traceback

                traceback.print_exc()
                status = 1
            if status:
                break
    (out / RESULT).write_text(json.dumps({"status": status, "seconds": time.perf_counter() - began}))


@contextlib.contextmanager
def everything_printed_to(target: int):
    """Python's output and that of libraries."""
    kept = {number: os.dup(number) for number in (1, 2)}
    for number in kept:
        os.dup2(target, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


def run_on(device: str, cases: Sequence[Case], folder: Path) -> None:
    """Run cases in processes on a device; one that dies or takes too long is replaced for the rest."""
    variables = environment() if device == "Ascend" else dict(os.environ)
    variables |= {"OMP_NUM_THREADS": "1"}
    left = list(cases)
    while left:
        names = [case.name for case in left]
        command = [sys.executable, __file__, "--worker", device, "--folder", str(folder), *names]
        with open(folder / f"{device}.log", "a") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.2)
            at_hand = next((case for case in left if not result_file(folder, device, case).exists()), None)
            if at_hand is not None and seconds_since_change(folder / device / at_hand.name) > CASE_LIMIT_S:
                process.kill()
        left = [case for case in left if not result_file(folder, device, case).exists()]
        if left:  # the first of them was at hand
            broken = left.pop(0)
            result_file(folder, device, broken).parent.mkdir(parents=True, exist_ok=True)
            text = {"status": process.returncode, "seconds": float("nan")}
            result_file(folder, device, broken).write_text(json.dumps(text))


def result_file(folder: Path, device: str, case: Case) -> Path:
    return folder / device / case.name / RESULT


def seconds_since_change(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime if folder.exists() else 0.0


def make_inputs(cases: Sequence[Case], folder: Path) -> None:
    """Make what the cases start from. Raises SystemExit with what went wrong."""
    text = " ".join(word for case in cases for command in case.commands for word in command)
    names = sorted(set(re.findall(r"\{inputs\}/([\w.-]+)", text)))
    result = subprocess.run([sys.executable, HERE / "inputs.py", folder, *names], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"error: the inputs could not be made: {result.stderr.strip()[-500:]}")


def rehearse(cases: Sequence[Case], folder: Path) -> list[Comparison]:
    """Run cases on both devices at the same time, and compare."""
    for device in DEVICES:
        for case in cases:
            shutil.rmtree(folder / device / case.name, ignore_errors=True)
    make_inputs(cases, folder / "inputs")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda device: run_on(device, cases, folder), DEVICES))
    return [compare(case, folder) for case in cases]


# --- comparing -----------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """What a case gave. A difference is None where there is nothing of the kind.

    Attributes:
        steps: optimizer steps on the stand-in.
        losses, weights, images: the largest difference; see rehearsal_cases.Tolerance.
        seconds: on the CPU, on the stand-in.
        faults: one line for each; empty: the case has passed.
    """

    case: Case
    steps: int
    losses: float | None
    weights: float | None
    images: float | None
    seconds: tuple[float, ...]
    faults: list[str]


def compare(case: Case, folder: Path) -> Comparison:
    outs = [folder / device / case.name for device in DEVICES]
    results = [json.loads((out / RESULT).read_text()) for out in outs]
    seconds = tuple(float(result["seconds"]) for result in results)
    faults = [
        f"{device}: ended with status {result['status']}: {last_error(out)}"
        for device, result, out in zip(DEVICES, results, outs, strict=True)
        if result["status"]
    ]
    if faults:
        return Comparison(case, 0, None, None, None, seconds, faults)
    cpu, npu = outs
    files = [sorted(str(path.relative_to(out)) for path in out.rglob("*") if is_compared(path)) for out in outs]
    if files[0] != files[1]:
        faults.append(f"not the same files: {sorted({*files[0]} ^ {*files[1]})[:5]}")
    found = Differences()
    for name in sorted({*files[0]} & {*files[1]}):
        compare_file(cpu / name, npu / name, found)
    for kind, allowed in case.tolerance._asdict().items():
        value = getattr(found, kind)
        if value is not None and not value <= allowed:
            faults.append(f"{kind} differ by {value:.1e} ({found.where[kind]}); {allowed:.0e} is allowed")
    for first, second in case.same:
        faults += unequal_weights(npu / first, npu / second)
    faults += found.faults
    if found.skips != case.skips:
        faults.append(f"{found.skips} updates were skipped, not {case.skips}")
    return Comparison(case, found.steps, found.losses, found.weights, found.images, seconds, faults)


class Differences:
    """The largest differences so far, by kind, and the file of each."""

    def __init__(self) -> None:
        self.losses: float | None = None
        self.weights: float | None = None
        self.images: float | None = None
        self.where: dict[str, str] = {}
        self.faults: list[str] = []
        self.steps = self.skips = 0

    def add(self, kind: str, value: float, where: str) -> None:
        known = getattr(self, kind)
        if known is None or not value <= known:  # NaN is the largest
            setattr(self, kind, value)
            self.where[kind] = where


def is_compared(path: Path) -> bool:
    if path.suffix == ".png":
        # Grids have 8 bits of what the numbered images have in 16; the chart is of losses that are compared themselves.
        return path.name not in ("trajectory.png", "grid.png", "loss.png")
    return path.suffix == ".safetensors" or path.name in ("metrics.csv", "evaluation.csv", "metrics.json")


def compare_file(cpu: Path, npu: Path, found: Differences) -> None:
    """Compare a file of the CPU's run with the one of the stand-in's."""
    if cpu.suffix == ".png":
        a, b = (np.asarray(Image.open(path), np.float64) for path in (cpu, npu))
        top = 65535 if Image.open(cpu).mode.startswith("I") else 255
        found.add("images", float(np.abs(a - b).max()) / top, npu.name)
    elif cpu.suffix == ".csv":
        compare_table(cpu, npu, found)
    elif cpu.suffix == ".json":
        a, b = (json.loads(path.read_text())["metrics"] for path in (cpu, npu))
        for name in a:
            found.add("losses", relative(a[name], b[name]), name)
    elif cpu.name == "training_state.safetensors":
        compare_state(cpu, npu, found)
    else:
        compare_weights(cpu, npu, found)


def relative(expected: float, value: float) -> float:
    return abs(value - expected) / max(abs(expected), 1e-12)


def compare_table(cpu: Path, npu: Path, found: Differences) -> None:
    """Losses and gradient norms of the steps, or evaluation metrics."""
    tables = [list(csv.reader(path.read_text().splitlines())) for path in (cpu, npu)]
    if len(tables[0]) != len(tables[1]):
        found.faults.append(f"{npu.name} has {len(tables[1])} rows, on the CPU {len(tables[0])}")
        return
    if npu.name == "evaluation.csv":
        for (step, name, a), (_, _, b) in zip(*tables, strict=True):
            found.add("losses", relative(float(a), float(b)), f"{name} at step {step}")
        return
    header = tables[0][0]
    for a, b in zip(tables[0][1:], tables[1][1:], strict=True):
        rows = [dict(zip(header, row, strict=True)) for row in (a, b)]
        found.add("losses", relative(*(float(row["train/loss"]) for row in rows)), f"step {rows[0]['step']}")
        found.steps = max(found.steps, int(rows[1]["step"]))


def compare_state(cpu: Path, npu: Path, found: Differences) -> None:
    """Counters and the loss scale of a checkpoint are the same; moments follow from gradients, as weights do."""
    a, b = load_file(cpu), load_file(npu)
    for name in ("step", "skips", "loss_scale", "good_steps"):
        if not np.array_equal(a[name], b[name]):
            found.faults.append(f"{name} in {npu.parent.name} is {b[name]}, on the CPU {a[name]}")
    found.skips = max(found.skips, int(b["skips"]))


def compare_weights(cpu: Path, npu: Path, found: Differences) -> None:
    """A network's difference, relative to how far it has moved since the run's first checkpoint."""
    out = next(parent for parent in cpu.parents if (parent / FIRST).is_dir())
    first = out / FIRST
    if cpu.is_relative_to(first):
        return  # what movement is measured from
    a, b = load_file(cpu), load_file(npu)
    if cpu.parent.name == "snapshots":  # of the averages of two widths, compare the wider
        a, b = ({name.split("/", 2)[2]: array for name, array in c.items() if name.startswith("0.1")} for c in (a, b))
    start = {name: array for path in first.rglob("*.safetensors") for name, array in load_file(path).items()}
    start |= {re.sub(r"\w+$", lambda last: TORCH_NAMES.get(last[0], last[0]), name): start[name] for name in [*start]}
    if a.keys() != b.keys():
        found.faults.append(f"{npu.name}: not the same tensors")
        return
    if npu.name == ADAPTERS_FILE:  # under other names than in a checkpoint; half of them start from zero
        start = {name: np.zeros_like(array) for name, array in a.items()}
    elif npu.name == EMBEDDING_FILE:
        start = dict.fromkeys(a, start["new_rows"])
    elif "fused" in npu.parts:  # no result of a run: measured from zero
        start = {name: np.zeros_like(array) for name, array in a.items()}
    trained = [name for name in a if name in start and a[name].shape == start[name].shape]
    frozen = [name for name in a if name not in trained and not np.array_equal(a[name], b[name])]
    found.faults += [f"{npu.parent.name}: {name} is not trained and differs" for name in frozen[:3]]
    if trained:
        moved = norm([a[name] - start[name] for name in trained])
        where = str(npu.relative_to(npu.parents[len(cpu.relative_to(out).parts) - 1]))
        found.add("weights", norm([a[name] - b[name] for name in trained]) / max(moved, 1e-12), where)


FIRST = "run/checkpoint-1"
ADAPTERS_FILE = "pytorch_lora_weights.safetensors"
EMBEDDING_FILE = "learned_embeds.safetensors"
TORCH_NAMES = {"gamma": "weight", "beta": "bias", "embedding_table": "weight"}  # in saved text encoders


def norm(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def unequal_weights(first: Path, second: Path) -> list[str]:
    """One line for each file of weights in ``first`` that is not the same in ``second``; checkpoints are left out, and
    snapshots that only the first has: a resumed run in another folder begins after them."""
    paths = [path for path in first.rglob("*.safetensors") if "checkpoint-" not in str(path.relative_to(first))]
    faults = [] if paths else [f"{first.name} has no weights"]
    for path in paths:
        if path.parent.name == "snapshots" and not (second / path.relative_to(first)).exists():
            continue
        a, b = load_file(path), load_file(second / path.relative_to(first))
        if any(not np.array_equal(a[name], b[name]) for name in a):
            faults.append(f"{second.name}: {path.name} is not what it is in {first.name}")
    return faults


def last_error(out: Path) -> str:
    """The line of a log that says best what went wrong."""
    if not (out / "log.txt").exists():
        return "no output"
    text = (out / "log.txt").read_text(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for said in (r"\[stand-in\] (?!no )|\(stand-in CANN\) \w", r"error: ", r"\w+Error: "):
        told = [line for line in lines if re.match(said, line)]
        if told:
            return told[0][:300]
    return (lines or ["no output"])[-1][:300]


# --- showing -------------------------------------------------------------------------------------------------------

COLUMNS = ("case", "steps", "losses", "weights", "images", "allowed", "CPU s", "Ascend s", "")


def format_row(found: Comparison) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}"

    tolerance = found.case.tolerance
    kinds = {kind: getattr(found, kind) for kind in tolerance._fields}
    allowed = " ".join(f"{getattr(tolerance, kind):.0e}" for kind, value in kinds.items() if value is not None)
    seconds = [f"{value:.0f}" for value in found.seconds]
    return (
        found.case.name,
        str(found.steps or "-"),
        *(shown(value) for value in kinds.values()),
        allowed or "-",
        *seconds,
        "FAIL" if found.faults else "ok",
    )


def print_table(found: Sequence[Comparison]) -> None:
    rows = [COLUMNS, *(format_row(one) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for one in found:
        for fault in one.faults:
            print(f"FAIL {one.case.name}: {fault}")


def chosen_cases(names: Sequence[str]) -> list[Case]:
    """Raises SystemExit for a name that no case has."""
    known = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: {unknown[0]}: no such case; --list shows them", file=sys.stderr)
        raise SystemExit(2)
    return [known[name] for name in names] if names else CASES


def main() -> int:
    parser = argparse.ArgumentParser(prog="rehearse.sh", description=__doc__.splitlines()[0])
    parser.add_argument("names", metavar="CASE", nargs="*", help="cases to run (default: all)")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--folder", type=Path, help="keep what the cases write here (default: a temporary folder)")
    parser.add_argument("--worker", choices=DEVICES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = chosen_cases(arguments.names)
    if arguments.list:
        for case in cases:
            print(f"{case.name:32}{case.about}")
        return 0
    if arguments.worker:
        for case in cases:
            run_here(case, arguments.folder, arguments.worker)
        return 0
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = rehearse(cases, folder)
        except StandInError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print_table(found)
    failed = sum(bool(one.faults) for one in found)
    print(f"{len(found) - failed} of {len(found)} cases agree with the CPU")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How fast it is on this machine, and how that compares with PyTorch and diffusers.

    python scripts/bench.py train --against torch       a train step, its memory, its first step; --precision bf16
    python scripts/bench.py train --costs               what averages, augmentation, logging, checkpoints add to a step
    python scripts/bench.py sample --against torch      a denoising step
    python scripts/bench.py data                        the real data path against a batch that is there already
    python scripts/bench.py startup                     from the command to the first finished step, twice
    python scripts/bench.py scaling                     two workers of one core each against one (Linux)
    python scripts/bench.py profile                     where a step's time goes, by operator
    python scripts/bench.py errors                      rounding errors in each precision, against PyTorch in float64
    python scripts/bench.py precision                   loss and Frechet distance in float32 and bf16
    python scripts/bench.py grow                        time and memory as models and images grow

Every measurement runs in a process of its own; rounds of the two sides take turns, and medians are shown. PyTorch is
measured in each of its modes, eager, compiled, and both in the layout channels_last; ratios are to the fastest. A table
goes to the screen, and with --json all figures to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# As it is before this package sets its variables (common/environment.py): a limit on oneDNN would slow PyTorch.
ENVIRONMENT = dict(os.environ)
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmarks import peers  # noqa: E402
from benchmarks.errors import measure_errors  # noqa: E402
from benchmarks.programs import measure_scaling, measure_startup  # noqa: E402

# --- the two sides in turn -----------------------------------------------------------------------------------------


def peer_python() -> str:
    """The Python that has PyTorch and diffusers; made where there is none yet."""
    given = os.environ.get("PEER_PYTHON")
    if given is None:
        subprocess.run(["bash", str(ROOT / "scripts" / "peer.sh")], check=True)
        given = str(ROOT / ".peer" / "bin" / "python")
    return given


def run_worker(name: str, options: dict[str, Any]) -> Any:
    python = peer_python() if name.startswith("torch_") else sys.executable
    command = [python, str(Path(__file__).resolve()), "--worker", name, json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if result.returncode != 0:
        sys.exit(f"error: the measurement {name} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def compare(name: str, options: dict[str, Any], against: str | None, modes: list[str]) -> dict[str, Any]:
    """Ours, and where asked for the peer's in each mode, in rounds that take turns; and ours divided by its fastest."""
    sides = {"mindone_ddpm": (name, options)}
    if against is not None:
        sides |= {f"torch {mode}": (f"torch_{name}", {**options, "mode": mode}) for mode in modes}
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(options["rounds"]):
        for side, (worker, given) in sides.items():
            results[side].append(run_worker(worker, given))
    found: dict[str, Any] = {side: medians(measured) for side, measured in results.items()}
    if against is not None:
        ours = found["mindone_ddpm"]
        best = min((side for side in found if side != "mindone_ddpm"), key=lambda side: found[side]["step_s"])
        for side in dict.fromkeys([best, f"torch {modes[0]}"]):
            both = [key for key in ours if key in found[side]]
            note = " (fastest)" if side == best else ""
            found[f"ratio to {side}{note}"] = {key: ours[key] / found[side][key] for key in both}
    return found


# Preset, size, batch, steps to measure: the last is the tutorial's model at the tutorial's size.
GROWTH = (
    ("tiny", 16, 8, 20),
    ("small", 16, 8, 20),
    ("small", 32, 8, 20),
    ("small", 64, 8, 6),
    ("ddpm-cifar10", 32, 4, 5),
    ("ddpm-cifar10", 64, 2, 4),
    ("tutorial-128", 64, 1, 3),
    ("tutorial-128", 128, 1, 2),
)


def grow(options: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for preset, size, batch_size, steps in GROWTH[: options["growth"]]:
        chosen = {**options, "preset": preset, "image_size": size, "batch_size": batch_size, "steps": steps}
        chosen["warmup"] = min(8, steps)
        found = run_worker("train", chosen)
        giga = run_worker("multiply_adds", chosen)["giga_multiply_adds"]
        # Forward, and twice as much backward; a multiply-add is two operations.
        rate = 3 * 2 * giga * batch_size / found["step_s"]
        rows.append(
            {
                "preset": preset,
                "size": size,
                "batch": batch_size,
                "parameters_m": found["parameters"] / 1e6,
                "gmac_per_image": giga,
                "step_s": found["step_s"],
                "images_per_s": batch_size / found["step_s"],
                "gflops_per_s": rate,
                "peak_memory_mb": found["peak_memory_mb"],
                "first_step_s": found["first_step_s"],
            }
        )
    return rows


# --- what is shown ---------------------------------------------------------------------------------------------------


def show_table(rows: list[dict[str, Any]]) -> None:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([text(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def rows_of(found: Any) -> list[dict[str, Any]]:
    if isinstance(found, list):
        return found
    if all(isinstance(value, dict) for value in found.values()):
        return [{"": name, **values} for name, values in found.items()]
    return [{"what": name, "value": value} for name, value in found.items()]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("train", "sample", "data", "startup", "scaling", "profile", "errors", "precision", "grow"):
        command = commands.add_parser(name)
        command.add_argument("--json", metavar="FILE", help="write all figures here too")
        command.add_argument("--device", default="CPU", help="Ascend, GPU or CPU (default: CPU)")
        command.add_argument("--rounds", type=int, default=3, help="rounds, or seeds (default: 3)")
        if name == "grow":
            command.add_argument("--growth", type=int, default=4, help=f"rows, at most {len(GROWTH)} (default: 4)")
            continue
        if name == "precision":
            command.add_argument("--steps", type=int, default=1000, help="of each training (default: 1000)")
            continue
        command.add_argument("--preset", default="tiny" if name == "scaling" else "small", help="UNet preset")
        command.add_argument("--image_size", type=int, default=32)
        command.add_argument("--batch_size", type=int, default=16 if name == "scaling" else 8)
        if name == "errors":
            continue
        command.add_argument("--steps", type=int, default=80 if name == "scaling" else 20, help="steps measured")
        command.add_argument("--warmup", type=int, default=10, help="steps before, while threads are tuned")
        if name in ("train", "sample", "profile"):
            command.add_argument("--precision", default="no", choices=["no", "bf16"], help="of both sides")
        if name in ("train", "sample"):
            modes = {"nargs": "+", "default": list(peers.MODES), "choices": peers.MODES}
            command.add_argument("--modes", **modes, help="of PyTorch")  # type: ignore[arg-type]
            command.add_argument("--against", choices=["torch"], help="measure PyTorch and diffusers too")
        if name == "train":
            command.add_argument(
                "--compile_cache",
                default="auto",
                choices=["auto", "off"],
                help="off: each start compiles, as a first one",
            )
            command.add_argument("--costs", action="store_true", help="what EMA, logging and checkpoints add")
    return parser


SIDES_ONLY = ("json", "against", "costs", "modes")  # what workers are not told


def measure(arguments: argparse.Namespace) -> Any:
    options = {name: value for name, value in vars(arguments).items() if name not in SIDES_ONLY}
    options["block"] = 5
    if "preset" in options:
        from mindone_ddpm.models.presets import UNET_PRESETS

        options["unet"] = UNET_PRESETS[options["preset"]]
    if arguments.command == "startup":
        return measure_startup(options)
    if arguments.command == "scaling":
        return measure_scaling(options)
    if arguments.command == "grow":
        return grow(options)
    if arguments.command == "errors":
        return measure_errors(options, run_worker)
    if arguments.command in ("data", "profile", "precision"):
        return run_worker(arguments.command, options)
    if arguments.command == "train" and arguments.costs:
        return run_worker("costs", options) | run_worker("quality_costs", options)
    return compare(arguments.command, options, arguments.against, arguments.modes)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        from benchmarks import ours  # not before: it imports this package, which the peer's Python does not have

        workers = peers.WORKERS if sys.argv[2] in peers.WORKERS else ours.WORKERS
        print(json.dumps(workers[sys.argv[2]](json.loads(sys.argv[3]))))
        return
    arguments = make_parser().parse_args()
    found = measure(arguments)
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.command}: {cores} core(s), {platform.machine()}, Python {platform.python_version()}")
    show_table(rows_of(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

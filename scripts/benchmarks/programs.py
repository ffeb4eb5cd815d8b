"""Measurements that start the program itself."""

from __future__ import annotations

import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def program(
    *arguments: object, prefix: tuple[str, ...] = (), until: re.Pattern[str] | None = None, **environment: str
) -> float:
    """Runs it to its end. Returns after how many seconds it said ``until``, or ended."""
    command = [*prefix, sys.executable, "-m", "mindone_ddpm", *map(str, arguments)]
    started, said, when = time.perf_counter(), "", None
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        while chunk := os.read(process.stderr.fileno(), 1 << 16):
            said += chunk.decode(errors="replace")
            if when is None and until is not None and until.search(said):
                when = time.perf_counter() - started
    if process.returncode != 0 or (until is not None and when is None):
        sys.exit(f"error: {' '.join(command)} ended with status {process.returncode}:\n{said[-2000:]}")
    return time.perf_counter() - started if when is None else when


def train_flags(options: dict[str, Any], folder: Path) -> list[object]:
    return [
        *("--dataset_name", "digits", "--channels", 3, "--preset", options["preset"]),
        *("--image_size", options["image_size"], "--train_batch_size", options["batch_size"]),
        *("--save_image_epochs", 0, "--checkpointing_steps", 0, "--report_to", "csv", "--mixed_precision", "no"),
        *("--device", options["device"], "--output_dir", folder),
    ]


def measure_startup(options: dict[str, Any]) -> dict[str, Any]:
    """The same command twice, until the bar says that its only step is done; and the command that does nothing.

    In a cache of their own, so that the first finds no graph; the operators in C++ are compiled beforehand.
    """
    first_step_is_done = re.compile(r"training: 100%")
    with tempfile.TemporaryDirectory() as folder:
        cache = {"MINDONE_DDPM_CACHE": str(Path(folder) / "cache")}

        def start(name: str, compile_cache: str) -> float:
            flags = [*train_flags(options, Path(folder) / name), "--max_train_steps", 1]
            return program("train", *flags, "--compile_cache", compile_cache, until=first_step_is_done, **cache)

        start("beforehand", "off")
        first, second = start("first", "on"), start("second", "on")
        return {
            "first_run_s": first,
            "second_run_s": second,
            "ratio": second / first,
            "without_a_step_s": program("train", *train_flags(options, Path(folder) / "dry"), "--dry_run"),
            "help_s": program("train", "--help"),
        }


def rate_of(folder: Path) -> float:
    """Images a second, the median of what was logged after the first tenth of a run."""
    rows = csv.DictReader((folder / "logs" / "metrics.csv").open())
    values = [float(row["train/images_per_second"]) for row in rows if row["train/images_per_second"]]
    return statistics.median(values[max(2, len(values) // 10) :])


def measure_scaling(options: dict[str, Any]) -> dict[str, Any]:
    """One worker on one core; two workers with a core each. Each worker has the whole batch size."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("error: scaling needs two processor cores")
    with tempfile.TemporaryDirectory() as name:
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options["rounds"]):
            for workers, mask in ((1, f"{cores[0]}"), (2, f"{cores[0]},{cores[1]}")):
                folder = Path(name) / f"{workers}-{number}"
                flags = [*train_flags(options, folder), "--max_train_steps", options["steps"], "--logging_steps", 5]
                program("launch", "-n", workers, "train", *flags, prefix=("taskset", "-c", mask))
                rates[workers].append(rate_of(folder))
    one, two = (statistics.median(rates[workers]) for workers in (1, 2))
    return {"one_worker_images_per_s": one, "two_workers_images_per_s": two, "ratio": two / one}

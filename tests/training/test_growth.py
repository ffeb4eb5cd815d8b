"""A long run: memory and open files stay as they are from step 1,000 on, whatever happens between the steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
from conftest import ROOT

STEPS, EVALUATIONS = 20_000, 50
MOST_MORE_MIB = 48  # between the second and the last tenth of the run


class Look(NamedTuple):
    seconds: float
    step: int
    mib: float
    files: int
    threads: int


def look_at(process: int, metrics: Path, began: float) -> Look | None:
    """What a process holds now; None where it has ended."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        files = len(os.listdir(f"/proc/{process}/fd"))
        return Look(
            time.monotonic() - began,
            last_step(metrics),
            int(status["VmRSS"].split()[0]) / 1024,
            files,
            int(status["Threads"]),
        )
    except (OSError, KeyError):
        return None


def last_step(metrics: Path) -> int:
    if not metrics.is_file():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 2000))
        lines = [line for line in file.read().split(b"\n") if line.startswith(b'{"step"') and line.endswith(b"}")]
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.slow
def test_memory_and_files_do_not_grow(digits_flags, tmp_path):
    run = tmp_path / "run"
    words = [
        *(sys.executable, "-m", "mindone_ddpm", "train", *digits_flags, "--output_dir", run, "--device", "CPU"),
        *("--max_train_steps", STEPS, "--train_batch_size", 8, "--report_to", "csv,tensorboard"),
        *("--eval_metrics", "kid", "--eval_features", "digits", "--eval_metrics_steps", STEPS // EVALUATIONS),
        *("--eval_num_samples", 32, "--eval_num_inference_steps", 2, "--validation_split", 0.1),
        *("--validation_loss_steps", STEPS // EVALUATIONS, "--checkpointing_steps", 500),
        *("--checkpoints_total_limit", 2),
        *("--save_image_epochs", 10, "--ddpm_num_inference_steps", 2, "--eval_batch_size", 4),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, looks = time.monotonic(), []
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(list(map(str, words)), stdout=said, stderr=said, env=environment)
    while process.poll() is None:
        looks.append(look_at(process.pid, run / "logs" / "metrics.jsonl", began))
        time.sleep(1)
    seconds = time.monotonic() - began
    assert process.returncode == 0, (tmp_path / "said").read_text()[-3000:]
    seen = [look for look in looks if look is not None and look.step > 0]
    measured = sum('"eval/' in line for line in (run / "logs" / "metrics.jsonl").open())
    early = [look for look in seen if 0.1 * STEPS <= look.step < 0.2 * STEPS]
    late = [look for look in seen if look.step >= 0.9 * STEPS]
    for name in ("mib", "files", "threads"):
        values = [[getattr(look, name) for look in part] for part in (early, late)]
        print(f"{name}: {median(values[0]):.0f} then {median(values[1]):.0f}, at most {max(map(max, values)):.0f}")
    tenths = [[look.mib for look in seen if n <= 10 * look.step / STEPS < n + 1] for n in range(10)]
    print(f"MiB by tenths of the run: {', '.join(f'{median(part):.0f}' for part in tenths if part)}")
    print(f"{STEPS:,} steps, {measured} lines of evaluations, in {seconds:.0f} s")
    assert measured >= EVALUATIONS
    assert median(look.mib for look in late) - median(look.mib for look in early) < MOST_MORE_MIB
    assert max(look.files for look in late) <= max(look.files for look in early) + 2
    assert max(look.threads for look in late) <= max(look.threads for look in early) + 2

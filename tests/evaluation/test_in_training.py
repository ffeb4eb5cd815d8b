"""Metrics measured during training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_program
from test_checkpoint import wait_for
from test_evaluation import figures_of

from mindone_ddpm.training import callbacks

# --- in the loop ---------------------------------------------------------------------------------------------------

IN_THE_LOOP = (
    *("--max_train_steps", 60, "--eval_metrics", "fid,kid,precision_recall", "--eval_features", "digits"),
    *("--eval_metrics_steps", 20, "--eval_num_samples", 100, "--eval_num_inference_steps", 4, "--save_best", "fid"),
    *("--checkpointing_steps", 20, "--checkpoints_total_limit", 5),
)


def curve_of(folder: Path) -> dict[tuple[int, str], float]:
    rows = [line.split(",") for line in (folder / "logs" / "evaluation.csv").read_text().splitlines()]
    return {(int(step), name.removeprefix("eval/digits_")): float(value) for step, name, value in rows}


@pytest.fixture(scope="module")
def watched(digits_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "run"
    result = run_program("train", *digits_flags, *IN_THE_LOOP, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout + result.stderr


def test_figures_on_the_way_and_their_cost(watched):
    folder, said = watched
    # 3 x 100 images x 4 forward passes, against 60 x 32 images of three forward passes.
    assert "3 time(s), some 21% of the training's time" in said
    curve = curve_of(folder)
    assert {step for step, _ in curve} == {20, 40, 60}
    assert len({curve[step, "frechet_distance"] for step in (20, 40, 60)}) == 3  # the weights move on
    assert f"step 60: digits_frechet_distance {curve[60, 'frechet_distance']:.5g}" in said


def test_the_best_pipeline_is_kept_and_is_as_good_as_told(watched, tmp_path):
    folder, _ = watched
    curve, best = curve_of(folder), json.loads((folder / "best" / "best.json").read_text())
    found = {step: curve[step, "frechet_distance"] for step in (20, 40, 60)}
    assert (best["figure"], best["value"]) == ("fid", min(found.values()))
    assert (best["step"], best["num_samples"]) == (min(found, key=found.__getitem__), 100)
    result = run_program(
        *("evaluate", "--model", folder / "best", "--dataset_name", "digits", "--features", "digits"),
        *("--num_samples", 100, "--num_inference_steps", 4, "--batch_size", 50, "--output_dir", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr
    assert figures_of(tmp_path / "out")["digits_frechet_distance"] == pytest.approx(best["value"], rel=1e-4)


def test_resumed_it_remembers_the_best_and_goes_on_with_the_same_figures(watched, digits_flags, tmp_path):
    folder, _ = watched
    again = tmp_path / "run"
    shutil.copytree(folder, again)
    for later in ("checkpoint-40", "checkpoint-60"):
        shutil.rmtree(again / later)
    record = json.loads((again / "checkpoint-20" / "training_state.json").read_text())
    assert record["progress"]["best"]["value"] == curve_of(folder)[20, "frechet_distance"]
    result = run_program(
        "train", *digits_flags, *IN_THE_LOOP, "--output_dir", again, "--resume_from_checkpoint", "latest"
    )
    assert result.returncode == 0, result.stderr
    assert curve_of(again) == curve_of(folder)
    assert len((again / "logs" / "evaluation.csv").read_text().splitlines()) == len(curve_of(folder))
    assert (again / "best" / "best.json").read_text() == (folder / "best" / "best.json").read_text()


@pytest.mark.slow
def test_ranks_share_the_work(watched, digits_flags, tmp_path):
    flags = [*digits_flags, *IN_THE_LOOP, "--train_batch_size", 16, "--output_dir", tmp_path / "run"]
    result = run_program("launch", "-n", 2, "train", *flags)
    assert result.returncode == 0, result.stderr
    alone, ranks = curve_of(watched[0]), curve_of(tmp_path / "run")
    assert ranks.keys() == alone.keys()
    assert ranks[60, "frechet_distance"] == pytest.approx(alone[60, "frechet_distance"], rel=1e-2)
    assert (tmp_path / "run" / "best" / "model_index.json").exists()


@pytest.mark.parametrize(
    ("now", "better"),
    [
        ({"value": 1.0}, True),
        ({"value": 3.0}, False),
        ({"value": 3.0, "num_samples": 50}, True),  # measured otherwise: the old value says nothing
        ({"value": 3.0, "figure": "precision"}, True),
    ],
)
def test_only_what_was_measured_alike_is_compared(now, better):
    best = {"figure": "fid", "value": 2.0, "step": 10, "num_samples": 100}
    assert callbacks.is_better({**best, "step": 20, **now}, best) is better
    assert callbacks.is_better(best, None)


@pytest.mark.slow
def test_a_request_to_stop_ends_a_measure_and_resuming_makes_up_for_it(digits_flags, tmp_path):
    flags = [
        *("train", *digits_flags, "--max_train_steps", 20, "--eval_metrics", "kid", "--eval_features", "digits"),
        *("--eval_metrics_steps", 10, "--eval_num_inference_steps", 20, "--output_dir", tmp_path / "run"),
    ]
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mindone_ddpm", *map(str, flags), "--eval_num_samples", "20000"],
            stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    wait_for(lambda: "evaluating" in log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and "stopped at step 10 of 20" in log.read_text(), log.read_text()
    assert not (tmp_path / "run" / "logs" / "evaluation.csv").exists()
    result = run_program(*flags, "--eval_num_samples", 60, "--resume_from_checkpoint", "auto")
    assert result.returncode == 0, result.stderr
    assert {step for step, _ in curve_of(tmp_path / "run")} == {10, 20}

"""Trackers, which write what a run measures."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.config.parse import to_yaml
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.output.metrics_log import read_curves
from mindone_ddpm.output.tracking import Trackers, clear_logs, make_tracker


def log(names, folder, steps, start=0, **settings):
    tracker = make_tracker(names, folder, start, settings)
    for step in steps:
        tracker.scalars(step, {"train/loss": 1.0 / step, "train/learning_rate": 0.5, "train/grad_norm": 2.0})
    tracker.image(steps[-1], "samples", Image.new("RGB", (8, 8)))
    tracker.close()


def test_several_at_once(tmp_path):
    log("csv,jsonl,tensorboard", tmp_path, [1, 2, 3], learning_rate=1e-4)
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [float(row["train/loss"]) for row in csv.DictReader(file)] == [1.0, 1 / 2, 1 / 3]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[2] == {"step": 3, "train/loss": 1 / 3, "train/learning_rate": 0.5, "train/grad_norm": 2.0}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert "learning_rate: 0.0001" in (tmp_path / "hparams.yml").read_text()
    clear_logs(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_what_was_logged_after_the_checkpoint_is_logged_anew(tmp_path, name):
    log(name, tmp_path, [1, 2, 3, 4])
    path = tmp_path / f"metrics.{name}"
    path.write_text(path.read_text() + ('{"step": 5, "tr' if name == "jsonl" else "5,0.1"))
    log(name, tmp_path, [3, 4, 5], start=2)
    text = path.read_text().splitlines()
    steps = [json.loads(line)["step"] for line in text] if name == "jsonl" else [int(r.split(",")[0]) for r in text[1:]]
    assert steps == [1, 2, 3, 4, 5]


def test_wandb_offline_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    log("wandb", tmp_path / "logs", [1, 2], learning_rate=1e-4)
    first = (tmp_path / "logs" / "wandb_run_id.txt").read_text()
    log("wandb", tmp_path / "logs", [3], start=2)
    assert (tmp_path / "logs" / "wandb_run_id.txt").read_text() == first
    stored = list((tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert stored and b"train/loss" in b"".join(path.read_bytes() for path in stored)
    assert not (tmp_path / "wandb").exists()


def test_swanlab_offline_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.argv", ["mindone-ddpm", "train", "--hub_token", "hf_secret_thing"])
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    log("swanlab", logs, [1, 2], learning_rate=1e-4)
    first = (logs / "swanlab_run_id.txt").read_text()
    log("swanlab", logs, [3], start=2, learning_rate=1e-4)
    assert (logs / "swanlab_run_id.txt").read_text() == first
    records = sorted((logs / "swanlab").glob(f"run-*-{first}/run-{first}.swanlab"))
    assert len(records) == 2 and all(b"train/loss" in path.read_bytes() for path in records)
    assert all("learning_rate" in path.read_text() for path in (logs / "swanlab").glob("run-*/files/config.yaml"))
    for path in (logs / "swanlab").glob("run-*/media/image/*.png"):
        with Image.open(path) as stored:
            assert stored.size == (8, 8)
    assert len(list((logs / "swanlab").glob("run-*/media/image/*.png"))) == 2
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"hf_secret_thing" in p.read_bytes()]
    assert not (tmp_path / "swanlog").exists() and capsys.readouterr() == ("", "")
    clear_logs(logs)
    assert list(logs.iterdir()) == []


def test_swanlab_without_a_login_is_told_in_one_line(tmp_path, monkeypatch):
    for name in ("SWANLAB_MODE", "SWANLAB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=r"--report_to swanlab: no run could be started .*SWANLAB_MODE=offline"):
        make_tracker("swanlab", tmp_path / "logs")


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(ConfigError, match=r"--report_to swanlab: .*mindone-ddpm\[swanlab\]"):
        make_tracker("swanlab", tmp_path)


def test_the_token_is_written_nowhere(tmp_path):
    config = TrainingConfig(dataset_name="digits", hub_token="hf_secret_thing")
    assert "hf_secret_thing" not in to_yaml(config)
    log("csv,jsonl,tensorboard", tmp_path, [1], **as_dict(config))
    for path in tmp_path.iterdir():
        assert b"hf_secret_thing" not in path.read_bytes(), path
    assert np.any([b"digits" in path.read_bytes() for path in tmp_path.glob("events*")])


@pytest.mark.parametrize("name", ["none", "jsonl", "csv", "tensorboard"])
def test_the_metrics_log_is_there_whatever_is_tracked(tmp_path, name):
    log(name, tmp_path, [1, 2])
    assert read_curves(tmp_path)["train/loss"] == {1: 1.0, 2: 0.5}
    assert (tmp_path / "hparams.yml").exists() == (name != "none")
    if name == "none":
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_no_tracker_does_nothing(tmp_path):
    tracker = Trackers()
    tracker.scalars(1, {"train/loss": 1.0})
    tracker.image(1, "samples", Image.new("RGB", (8, 8)))
    tracker.close()


def test_evaluation_metrics_have_a_table_of_their_own(tmp_path):
    tracker = make_tracker("csv", tmp_path)
    tracker.scalars(1, {"train/loss": 1.0, "train/learning_rate": 0.5, "train/grad_norm": 2.0})
    tracker.scalars(1, {"eval/fid": 3.0, "eval/kid": 0.25})
    tracker.close()
    assert (tmp_path / "evaluation.csv").read_text() == "1,eval/fid,3.0\n1,eval/kid,0.25\n"
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["1,1.0,0.5,2.0,,,"]


def test_a_long_table_is_limited(tmp_path, monkeypatch):
    from mindone_ddpm.common import rotation
    from mindone_ddpm.output.tracking import CsvTracker

    monkeypatch.setattr(rotation, "RECENT_LINES", 50)
    table = CsvTracker(tmp_path, 0, most_bytes=20_000)
    for step in range(1, 2001):
        table.scalars(step, {"train/loss": 0.5, "train/learning_rate": 1e-4, "train/grad_norm": 1.0})
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(CsvTracker.columns) and (tmp_path / "metrics.csv").stat().st_size < 25_000
    steps = [int(line.split(",")[0]) for line in lines[1:]]
    assert steps[-50:] == list(range(1951, 2001)) and steps == sorted(steps)
    assert rotation.parts_of(tmp_path / "metrics.csv")
    clear_logs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensorboards_files_are_limited(tmp_path, monkeypatch):
    from mindone_ddpm.output import tracking

    monkeypatch.setattr(tracking, "MOST_EVENT_FILES", 3)
    monkeypatch.setattr(tracking, "CALLS_BETWEEN_LOOKS", 10)
    tracker = tracking.TensorBoardTracker(tmp_path, 0, {}, most_bytes=2000)
    for step in range(1, 1001):
        tracker.scalars(step, {"train/loss": 1.0 / step})
    tracker.close()
    files = list(tmp_path.glob("events.out.tfevents.*"))
    assert 2 <= len(files) <= 5 and sum(path.stat().st_size for path in files) < 12_000


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"", b"step\n1\n", b"nothing,of,this\n" * 3, b"9" * 5000, b"step,train/loss\n1,2,3,4,5,6,7,8,9\n"],
)
def test_damaged_tables_of_an_earlier_start(tmp_path, content):
    for name in ("metrics.csv", "evaluation.csv", "metrics.jsonl"):
        (tmp_path / name).write_bytes(content)
    tracker = make_tracker("csv", tmp_path, 4)
    tracker.scalars(5, {"train/loss": 0.5})
    tracker.close()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["5,0.5,,,,,"]


def test_a_pipe_in_the_place_of_a_table_is_replaced(tmp_path):
    import os

    os.mkfifo(tmp_path / "metrics.csv")
    tracker = make_tracker("csv", tmp_path, 4)
    tracker.scalars(5, {"train/loss": 0.5})
    assert (tmp_path / "metrics.csv").is_file()


def test_a_folder_in_the_place_of_a_table_is_told(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(ConfigError, match=r"--logging_dir .*metrics\.csv"):
        make_tracker("csv", tmp_path, 4)

"""What the studio reads from a folder of runs."""

from __future__ import annotations

import json
import os
import time

import pytest
from made_runs import make_run

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.locks import FolderLock
from mindone_ddpm.output import run_state
from mindone_ddpm.studio import machine
from mindone_ddpm.studio.folder import StudioFolder
from mindone_ddpm.studio.machine import ask_device
from mindone_ddpm.studio.runs import LiveCurves, Runs, state_of


def test_only_new_lines_are_read(tmp_path):
    run, curves = make_run(tmp_path / "run", steps=2), LiveCurves()
    path = run / "logs" / "metrics.jsonl"
    assert curves.read(run)["train/loss"] == {1: 1.0, 2: 0.5}
    with open(path, "a") as file:
        file.write('{"step": 3, "train/loss": 0.25}\n{"step": 4, "train')
    assert curves.read(run)["train/loss"] == {1: 1.0, 2: 0.5, 3: 0.25}
    with open(path, "a") as file:  # the rest of the line, and damaged ones
        file.write('/loss": 0.2}\n[1]\n{"step": "x"}\n{"step": 5, "train/loss": "none", "eval/fid": NaN}\n')
    assert curves.read(run)["train/loss"][4] == 0.2 and list(curves.read(run)["eval/fid"]) == [5]
    (run / "new").write_text('{"step": 1, "train/loss": 7}\n')  # a run that begins anew replaces the file
    os.replace(run / "new", path)
    assert curves.read(run) == {"train/loss": {1: 7.0}}
    path.unlink()
    assert curves.read(run) == {}


def test_runs_are_found_and_links_are_not_followed(tmp_path):
    root = tmp_path / "root"
    for name in ("a", "deep/er/b"):
        make_run(root / name)
    make_run(tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "studio" / "models" / "x").mkdir(parents=True)
    folder = StudioFolder(root)
    assert [folder.name_of(path) for path in folder.runs()] == ["a", "deep/er/b"]
    for name in ("..", "../elsewhere", "/etc", "link", "a/../../elsewhere", "a\0b", "~/../..//../x"):
        with pytest.raises(ConfigError):
            folder.inside(name)
    assert folder.inside("deep/../a") == root / "a"
    with pytest.raises(ConfigError, match="no such folder"):
        StudioFolder(tmp_path / "nowhere")


def test_a_pipeline_and_its_checkpoints_are_models(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "model_index.json").write_text("{}")
    for name in ("checkpoint-5", "checkpoint-40"):
        (run / name / "unet").mkdir(parents=True)
    (run / "checkpoint-40" / "unet" / "config.json").write_text("{}")  # the other is not whole
    adapters = make_run(tmp_path / "adapters")
    (adapters / "pytorch_lora_weights.safetensors").touch()
    (adapters / "checkpoint-5" / "unet").mkdir(parents=True)
    (adapters / "checkpoint-5" / "unet" / "adapters.safetensors").touch()
    found = [tuple(model) for model in StudioFolder(tmp_path).models()]
    assert found[:2] == [("adapters", "lora"), ("adapters/checkpoint-5", "lora")]
    assert found[2:] == [("run", "pipeline"), ("run/checkpoint-40", "checkpoint")]


def test_the_state_of_a_run(tmp_path):
    run = make_run(tmp_path / "run")
    assert state_of(run)["state"] == "unknown"
    run_state.write_start(run, 100, 32, 1)
    assert state_of(run)["state"] == "lost"  # this process does not hold its lock
    run_state.write_end(run, run_state.FAILED, ValueError("no\nmemory"))
    about = state_of(run)
    assert (about["state"], about["message"], about["total_steps"]) == ("failed", "no", 100)
    run_state.write_end(run, run_state.FINISHED)  # it has ended already
    assert state_of(run)["state"] == "failed"
    text = json.dumps({"state": "running", "total_steps": 5, "images_per_step": 1, "ranks": 1, "process": 1})
    for damaged in ("", "[]", "{", '{"state": 3}', text.replace("5", '"x"'), "[" * 100_000):
        (run / run_state.STATE_FILE).write_text(damaged)
        assert run_state.read_state(run) == {} and state_of(run)["state"] == "unknown"
    (run / run_state.STATE_FILE).write_text(text[:-1] + ', "host": "another"}')
    assert state_of(run)["state"] == "running"  # on another machine, which wrote a moment ago
    os.utime(run / "logs" / "metrics.jsonl", (0, 0))
    os.utime(run / "training_config.yaml", (0, 0))
    os.utime(run, (0, 0))
    assert state_of(run)["state"] == "lost"


def test_asking_who_holds_a_lock_takes_nothing(tmp_path):
    lock = FolderLock(tmp_path, "")
    assert lock.holder() is None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with FolderLock(tmp_path, "").hold():
                os.write(writer, b"x")
                time.sleep(60)
        finally:
            os._exit(0)
    assert os.read(reader, 1) == b"x"
    assert lock.holder() == child
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert lock.holder() is None


def test_the_load_of_a_device_is_what_its_program_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_device() == ""
    program = tmp_path / "npu-smi"
    program.write_text("#!/bin/sh\n[ $1 = info ] && echo '| 0  910B3 | OK | 57 % |'\n")
    program.chmod(0o755)
    assert ask_device() == "| 0  910B3 | OK | 57 % |"
    program.write_text("#!/bin/sh\necho no driver\nexit 1\n")
    assert ask_device() == ""


def test_the_load_is_that_of_all_threads(tmp_path, monkeypatch):
    times = iter([(10.0, 20.0), (11.0, 24.0), (11.0, 24.0)])  # idle, all
    monkeypatch.setattr(machine, "processor_times", lambda: next(times))
    monkeypatch.setattr(machine, "SHORTEST_S", 0.0)
    assert machine.Machine(tmp_path).load()["processor_percent"] == 75


def test_a_damaged_run_is_shown(tmp_path):
    folder = StudioFolder(tmp_path)
    run = make_run(tmp_path / "run")
    (run / "training_config.yaml").write_text("[unclosed")
    (run / "best").mkdir()
    (run / "best" / "best.json").write_text("{}")
    (run / "checkpoint-3").mkdir()
    details = Runs(folder).details(run)
    assert details["problem"].startswith("training_config.yaml: cannot be read") and details["step"] == 30
    assert "best" not in details["rows"] and not details["resumable"]
    assert [grid["name"] for grid in details["grids"]] == ["step 10", "step 20", "step 30"]
    assert Runs(folder).charts([run])[0]["title"] == "loss"


def test_settings_that_differ_from_the_default_come_first(tmp_path):
    run = make_run(tmp_path / "run", learning_rate=1e-3, train_batch_size=16, unheard_of=True)
    details = Runs(StudioFolder(tmp_path)).details(run)
    assert details["changed"] == {"dataset_name": "digits", "learning_rate": "0.001", "unheard_of": "True"}
    assert details["defaults"] == {"train_batch_size": "16"}
    other = make_run(tmp_path / "other", learning_rate=1e-4, output_dir="x")
    runs = Runs(StudioFolder(tmp_path))
    assert runs.differences([run, other])["learning_rate"] == ["0.001", "0.0001"]
    assert "output_dir" not in runs.differences([run, other])
    svg = runs.charts([run, other])[0]["svg"]
    assert 'class="line c0"' in svg and 'class="line c1"' in svg and "&quot;name&quot;:&quot;other&quot;" in svg

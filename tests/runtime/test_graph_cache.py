"""The compiled step kept between starts: the same bits, never another run's graph, and never a damaged one."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_program
from test_checkpoint import assert_same_end

from mindone_ddpm.backends.choose import choose
from mindone_ddpm.runtime import graph_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache: Path, flags: list[object], folder: Path, *more: object) -> str:
    result = run_program(
        "train", *flags, "--max_train_steps", 6, "--checkpointing_steps", 3, "--output_dir", folder, *more,
        MINDONE_DDPM_CACHE=str(cache),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "ERROR" not in result.stderr, result.stderr
    return result.stderr


def entries(cache: Path) -> dict[str, int]:
    """Each with when it was made."""
    found = {path.name: (path / graph_cache.SUMS).stat().st_mtime_ns for path in (cache / "graphs").glob("*")}
    assert not [name for name in found if name.startswith(".")]
    return found


@pytest.fixture(scope="module")
def cold(cache, digits_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold") / "run"
    train(cache, digits_flags, folder)
    return folder


def test_a_second_start_takes_the_kept_graph_and_gives_the_same_bits(cold, cache, digits_flags, tmp_path):
    before = entries(cache)
    assert len(before) == 1
    train(cache, digits_flags, tmp_path / "warm")
    assert_same_end(tmp_path / "warm", cold, 6)
    assert entries(cache) == before


def test_going_on_from_a_checkpoint_takes_it_too(cold, cache, digits_flags, tmp_path):
    before = entries(cache)
    folder = tmp_path / "run"
    train(cache, digits_flags, folder)
    train(cache, digits_flags, folder, "--resume_from_checkpoint", "checkpoint-3")
    assert_same_end(folder, cold, 6)
    assert entries(cache) == before


def test_another_learning_rate_is_compiled_anew(cold, cache, digits_flags, tmp_path):
    before = entries(cache)
    train(cache, digits_flags, tmp_path / "kept", "--learning_rate", 5e-3)
    assert entries(cache).keys() > before.keys()
    train(cache, digits_flags, tmp_path / "fresh", "--learning_rate", 5e-3, "--compile_cache", "off")
    assert_same_end(tmp_path / "kept", tmp_path / "fresh", 6)


def test_a_damaged_entry_is_made_anew(cold, cache, digits_flags, tmp_path):
    before = entries(cache)
    for graph in (cache / "graphs").glob("*/rank_0/graph_cache/*.mindir"):
        graph.write_bytes(graph.read_bytes()[:1000])
    train(cache, digits_flags, tmp_path / "again")
    assert_same_end(tmp_path / "again", cold, 6)
    after = entries(cache)
    assert after.keys() == before.keys() and after != before


def test_a_place_that_cannot_be_written_costs_the_cache_only(digits_flags, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with graph_cache.cached_graph(None):
        pass
    train(file / "below", [*digits_flags, "--save_image_epochs", 0], tmp_path / "run")


def test_only_the_newest_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "MOST_GRAPHS", 2)
    for age, name in enumerate(["new", "newer", "old", ".own-killed", ".own-at-work"]):
        (tmp_path / name).mkdir()
        if name != ".own-at-work":
            os.utime(tmp_path / name, (1000 - 10 * age, 1000 - 10 * age))
    graph_cache._prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".own-at-work", "new", "newer"]


def test_every_fact_counts(monkeypatch):
    backend = choose("CPU")

    def key(facts, backend=backend):
        return graph_cache.fingerprint(facts, backend)

    facts = {"settings": {"learning_rate": 1e-4}, "ranks": (0, 1)}
    assert key(facts) == key({"ranks": (0, 1), "settings": facts["settings"]})
    assert key(facts) != key({**facts, "ranks": (1, 2)})
    for other in ({"name": "GPU"}, {"graph_facts": lambda: {**backend.graph_facts(), "library": "another"}}):
        assert key(facts) != key(facts, dataclasses.replace(backend, **other))
    before = key(facts)
    monkeypatch.setattr(sys, "argv", ["another-script.py"])
    assert key(facts) != before


SCRIPT = """
import sys  # what MindSpore looks at in the program's script
import mindone_ddpm as md

config = md.TrainingConfig(
    dataset_name="digits", channels=1, image_size=8, model_config_name_or_path=sys.argv[1], max_train_steps=1,
    lr_warmup_steps=0, save_image_epochs=0, report_to="none", output_dir=sys.argv[2], overwrite_output_dir=True,
    compile_cache="on",
)
{job}
before = (sys.stdout, sys.stderr, sys.displayhook, sys.excepthook)
md.train_loop(training)
assert (sys.stdout, sys.stderr, sys.displayhook, sys.excepthook) == before
"""


PLAIN_JOB = """
config, runtime = md.start_training(config)
training = md.build_training(config, runtime, md.UnconditionalJob.open(config, runtime))
"""


CUSTOM_JOB = """
from mindspore import nn

class ScaledLoss(nn.Cell):
    def __init__(self, loss, factor):
        super().__init__(auto_prefix=False)
        self.loss, self.factor = loss, factor

    def construct(self, images, noise, timesteps):
        return self.factor * self.loss(images, noise, timesteps)

class CustomJob(md.UnconditionalJob):
    def loss_cell(self):
        return ScaledLoss(super().loss_cell(), float(sys.argv[3]))

config, runtime = md.start_training(config)
job = CustomJob.open(config, runtime)
training = md.build_training(config, runtime, job)
print("loss", training.step(next(training.windows(0)))[0].asnumpy())
"""


def run_script(script: Path, small_model, folder: Path, *more: object) -> tuple[dict[str, int], str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINDONE_DDPM_CACHE": str(folder / "cache")}
    command = [sys.executable, script, small_model, folder / "run", *more]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return entries(folder / "cache"), result.stdout


@pytest.mark.slow
def test_a_custom_script(small_model, tmp_path):
    """Caching the graph leaves `sys`, which MindSpore creates again, as it was. A changed script is compiled again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(job=PLAIN_JOB))
    first, _ = run_script(script, small_model, tmp_path)
    assert len(first) == 1
    script.write_text(script.read_text() + "# changed\n")
    changed, _ = run_script(script, small_model, tmp_path)
    assert changed.keys() == first.keys() and changed != first
    assert run_script(script, small_model, tmp_path)[0] == changed


@pytest.mark.slow
def test_a_custom_job_is_compiled_every_time(small_model, tmp_path):
    """What it compiles into the graph may come from anywhere: here from the command line."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(job=CUSTOM_JOB))
    losses = []
    for factor in (1, 100):
        _, said = run_script(script, small_model, tmp_path, factor)
        losses.append(float(re.search(r"loss \S*?([\d.]+)", said)[1]))
    assert losses[1] == pytest.approx(100 * losses[0], rel=1e-5)


def test_a_cache_that_was_moved_serves_on(cold, cache, digits_flags, tmp_path):
    shutil.copytree(cache, tmp_path / "copied")
    train(tmp_path / "copied", digits_flags, tmp_path / "run")
    assert_same_end(tmp_path / "run", cold, 6)

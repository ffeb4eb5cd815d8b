"""A small part of ``scripts/fuzz.sh``: damaged files are read, or refused by one line. And the fuzzer itself."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import damage
import fuzz
import targets

from mindone_ddpm.common.errors import ConfigError, UserError

# Those that need neither MindSpore's device nor files that take long to make, and how many inputs are tried of each.
FEW = {"image": 150, "folder": 3, "settings": 25, "model-config": 15, "rank-table": 80}
KNOWN = {target.name: target for target in targets.targets(Path("nowhere"))}


@pytest.mark.parametrize("name", FEW)
def test_damaged_files_are_read_or_refused_in_one_line(name):
    target = KNOWN[name]

    @settings(deadline=None, max_examples=FEW[name], suppress_health_check=list(HealthCheck), database=None)
    @given(st.randoms(use_true_random=False))
    def check(rng):
        with tempfile.TemporaryDirectory() as folder:
            target.damage(rng, Path(folder))
            found = fuzz.outcome(target, Path(folder))
        assert found in ("read", "refused"), found

    check()


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False))
def test_damaged_records_of_checkpoints(rng):
    from mindone_ddpm.output.records import read_record

    whole = targets.RUNS / "images" / "checkpoint-4" / "training_state.json"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        path.write_bytes(damage.damaged_json(rng, whole.read_bytes()))
        try:
            assert read_record(path)["progress"]["step"] >= 0
        except ValueError as error:
            assert "\n" not in str(error)


def outcome_of(read):
    return fuzz.outcome(targets.Target("x", lambda rng, folder: None, read), Path("."))


def raises(error):
    def read(folder):
        raise error

    return read


def test_what_the_fuzzer_calls_a_fault():
    assert outcome_of(lambda folder: None) == "read"
    assert outcome_of(raises(UserError("--model x: is damaged"))) == "refused"
    assert outcome_of(raises(ConfigError("--a: x", "--b: y"))) == "refused"
    assert outcome_of(raises(KeyError("x"))).startswith("KeyError ")
    assert outcome_of(raises(MemoryError())).startswith("memory: ")
    assert outcome_of(raises(UserError(""))).startswith("message: empty")
    bare = UserError("a")
    bare.args = ("a\nb",)
    assert outcome_of(raises(bare)).startswith("message: several lines")


def test_it_counts_and_keeps_what_a_child_could_not_read(tmp_path):
    """An input that kills the process, one that never ends, one that fails; and those that are good."""

    def make(rng, folder):
        (folder / "kind").write_text(rng.choice(("good", "good", "bad", "kill", "hang")))

    def read(folder):
        kind = (folder / "kind").read_text()
        if kind == "bad":
            raise KeyError("x")
        if kind == "kill":
            os.kill(os.getpid(), 9)
        if kind == "hang":
            os.read(os.pipe()[0], 1)

    found = fuzz.Fuzzer(0, tmp_path / "faults", tmp_path / "scratch")
    found.scratch.mkdir()
    limits = fuzz.START_S, fuzz.MOST_SECONDS
    fuzz.START_S = fuzz.MOST_SECONDS = 0.3
    try:
        for _ in range(9):
            found.run_slice(targets.Target("x", make, read), 0.1)
    finally:
        fuzz.START_S, fuzz.MOST_SECONDS = limits
    faults = found.tallies["x"].faults
    assert {"ended by signal 9", "hang of more than 0.3 s", "KeyError test_fuzz.py:read"} == faults.keys()
    assert found.tallies["x"].read > 0 and len(found.kept) == 3
    kept = {(path / "input" / "kind").read_text() for path in (tmp_path / "faults").iterdir()}
    assert kept == {"bad", "kill", "hang"}


def test_damage_depends_on_the_generator_alone():
    import random

    whole = json.dumps({"a": [1, 2, {"b": "c"}], "d": 1.5}).encode()
    made = [[damage.damaged_json(random.Random(seed), whole) for seed in range(200)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 150

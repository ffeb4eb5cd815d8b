"""Settings files as strangers may write them: one line of error each, in no time."""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.yaml_files import MOST_BYTES, read_yaml
from mindone_ddpm.config.parse import from_dict
from mindone_ddpm.config.parse import read_yaml as read_settings
from mindone_ddpm.jobs.unconditional.config import TrainingConfig

STEPS = zip("abcdefgh", "bcdefghi", strict=True)
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in STEPS)
WRONG = {
    "aliases are not taken in line 2": LAUGHS,
    "more than 20 levels of lists in line 1": "a: " + "[" * 20000 + "]" * 20000,
    "is larger than 1 MiB": "a: " + "x" * (MOST_BYTES + 1),
    "Exceeds the limit": "max_train_steps: " + "9" * 5000,
    "could not determine a constructor": "a: !!python/object/apply:os.system [true]",
    "is not YAML": "a: [",
    "special characters are not allowed": "a: \x00",
}


@pytest.mark.parametrize("message", WRONG)
def test_files_that_are_refused(message, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(WRONG[message])
    began = time.monotonic()
    problems: list[str] = []
    assert read_settings(str(path), TrainingConfig, problems) == {}
    assert len(problems) == 1 and problems[0].startswith(f"--config {path}: ") and message in problems[0]
    assert "\n" not in problems[0] and len(problems[0]) < 500 + len(str(path))
    assert time.monotonic() - began < 5


def test_devices_pipes_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="is not a file"):
            read_yaml(path)


def test_a_date_is_text(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("hub_license: 2026-13-45\noutput_dir: 2026-01-01\n")
    assert read_settings(str(path), TrainingConfig, []) == {"hub_license": "2026-13-45", "output_dir": "2026-01-01"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hub_license", ["a", "b"], "must be text"),
        ("hub_license", {"a": 1}, "must be text"),
        ("report_to", [["csv"]], "must be text"),
        ("learning_rate", [0.1], "must be a number"),
        ("max_train_steps", 10**18, "must be at most 2,147,483,647"),
        ("image_size", 10**9, "must be at most 8192"),
        ("lr_step_rules", "nan:1,1", "must be factor:until_step pairs"),
        ("lr_step_rules", "1:1,inf", "must be factor:until_step pairs"),
    ],
)
def test_values_that_no_run_can_have(name, value, message):
    with pytest.raises(ConfigError) as error:
        from_dict(TrainingConfig, {name: value, "lr_scheduler": "piecewise_constant"}).check()
    assert any(line.startswith(f"--{name} ") and message in line for line in error.value.problems), error.value


NAMES = st.sampled_from([*TrainingConfig.__dataclass_fields__]) | st.text(max_size=8)
PLAIN = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_is_read_and_any_values_end_in_lines(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=False), encoding="utf-8")
        assert read_yaml(path) == content
        problems: list[str] = []
        values = read_settings(str(path), TrainingConfig, problems)
        try:
            from_dict(TrainingConfig, values, problems).check()
        except ConfigError as error:
            assert all(line.startswith("--") and len(line) < 600 for line in error.problems)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_read_or_refused(content):
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            read_yaml(Path(file.name))
        except ValueError as error:
            assert "\n" not in str(error)


def test_no_date_is_made_of_what_looks_like_one(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("[2026-01-01, 2026-01-01 10:00:00]")
    assert not any(isinstance(value, datetime.date) for value in read_yaml(path))

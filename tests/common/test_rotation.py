"""Logs of a limited size: what stays in them, what is moved, and that nothing is lost on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from mindone_ddpm.common import rotation


@pytest.fixture
def few_recent_lines(monkeypatch):
    monkeypatch.setattr(rotation, "RECENT_LINES", 10)


def test_older_parts_are_kept_up_to_a_number(tmp_path):
    path = tmp_path / "a.log"
    for number in range(7):
        path.write_text(f"text {number}")
        assert rotation.cut(path) and path.read_text() == ""
    assert [part.read_text() for part in rotation.parts_of(path)] == ["text 6", "text 5", "text 4", "text 3"]
    (tmp_path / "a.log.before").touch()
    assert len(rotation.parts_of(path)) == rotation.KEPT_PARTS


def test_a_long_log_keeps_its_newest_lines_its_head_and_half_of_the_others(tmp_path, few_recent_lines):
    path = tmp_path / "a.csv"
    lines = ["head\n", *(f"{number}{' keep' if number % 20 == 0 else ''}\n" for number in range(1, 100))]
    path.write_text("".join(lines))
    rotation.thin(path, lambda line: b"keep" in line, head=1)
    found = path.read_text().splitlines(keepends=True)
    assert found[0] == "head\n" and found[-10:] == lines[-10:]
    assert [line for line in found if "keep" in line] == [line for line in lines if "keep" in line]
    assert 45 < len(found) < 65 and set(found) <= set(lines)
    assert rotation.parts_of(path)[0].read_text() == "".join(lines)  # all of it, in the older part


def test_a_full_disk_leaves_the_log_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "a.log"
    path.write_text("text")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rotation.shutil, "copyfile", full)
    monkeypatch.setattr(rotation.os, "link", full)
    assert not rotation.cut(path)
    with pytest.raises(OSError, match="No space"):
        rotation.thin(path)
    assert path.read_text() == "text" and rotation.parts_of(path) == []


RANK = """
import sys, time
from mindone_ddpm.runtime.outcome import append_to_log
if sys.argv[1] == "appends":
    append_to_log()
for number in range(200):
    print(f"line {number:04}", flush=True)
    time.sleep(0.005)
"""


@pytest.mark.parametrize("how", ["appends", "does not"])
def test_the_log_of_a_rank_can_be_cut_while_it_writes(tmp_path, how):
    """msrun opens it at a place of its own; only a rank that appends goes on at the new end."""
    from mindone_ddpm.runtime.outcome import OUTCOMES, appends_to_log

    path = tmp_path / "worker_0.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), OUTCOMES: str(tmp_path), "RANK_ID": "0"}
    with open(path, "w") as log:
        process = subprocess.Popen([sys.executable, "-c", RANK, how], stdout=log, stderr=log, env=environment)
    while path.stat().st_size < 300:
        time.sleep(0.01)
    assert appends_to_log(process.pid) == (how == "appends")
    if how == "appends":
        assert rotation.cut(path)
    assert process.wait(30) == 0
    older = [part.read_text() for part in rotation.parts_of(path)]
    lines = "".join([*older, path.read_text()]).splitlines()
    assert "\0" not in path.read_text() and lines[-1] == "line 0199" and len(lines) >= 195
    assert len(older) == (how == "appends")

"""Runs weights_on_ascend.py on the stand-in."""

from __future__ import annotations

from pathlib import Path

from standin import run_on_standin


def test_weights_in_one_vector():
    program = Path(__file__).with_name("weights_on_ascend.py")
    result = run_on_standin("-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-q", program)
    assert result.returncode == 0, result.stdout[-3000:]

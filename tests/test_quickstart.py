"""The quickstart's commands, shortened, in a folder of their own: a first time, and again."""

from __future__ import annotations

import shlex

from conftest import ROOT, run_program
from PIL import Image

SHORT = {
    "train": ("--max_train_steps", 3, "--logging_steps", 1, "--lr_warmup_steps", 1),
    "sample": ("--num_inference_steps", 2),
}


def quickstart(folder):
    """What each command says."""
    lines = (ROOT / "scripts" / "quickstart.sh").read_text().splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/mindone-ddpm ")]
    assert [words[0] for words in commands] == ["train", "sample"]
    for words in commands:
        result = run_program(*words, *SHORT[words[0]], cwd=folder)
        assert result.returncode == 0, result.stderr
        yield result.stdout + result.stderr


def test_the_quickstart_can_be_run_twice(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    list(quickstart(tmp_path))
    first = (tmp_path / "digits" / "images" / "grid.png").read_bytes()
    trained, _ = quickstart(tmp_path)
    assert "resumed: digits/checkpoint-3, step 3" in trained
    assert (tmp_path / "digits" / "images" / "grid.png").read_bytes() == first
    with Image.open(tmp_path / "digits" / "images" / "grid.png") as grid:
        assert grid.size == (8 * 66 + 2, 8 * 66 + 2)
    result = run_program("report", "digits", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Samples over the epochs" not in (tmp_path / "digits" / "report.html").read_text()

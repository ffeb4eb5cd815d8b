"""A job that is started again after failures: when, how often, from where."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_checkpoint import assert_same_end, start, wait_for
from test_launch import wait_until_gone, workers_of

from mindone_ddpm.cli import make_parser
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.runtime import launch
from mindone_ddpm.runtime.restarts import checkpoints_in, resuming, supervise


class Runs:
    """Starts that end as they are told: (exit status, step of the newest checkpoint by then, asked to stop)."""

    def __init__(self, folder: Path, *ends: tuple[int, int, bool]):
        self.folder, self.ends, self.again, self.pauses, self.words = folder, list(ends), [], [], []

    def __call__(self, words: list[str]) -> tuple[int, bool]:
        self.words.append(words)
        self.again.append("--resume_from_checkpoint" in words)
        status, step, stopped = self.ends.pop(0)
        if step:
            (self.folder / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
        return status, stopped

    def supervised(self, max_restarts: int) -> int:
        return supervise(self, ["train"], self.folder, max_restarts, self.pauses.append)


@pytest.mark.parametrize("end", [(0, 5, False), (2, 0, False), (1, 5, True), (143, 5, False)])
def test_what_is_done_wrong_use_or_stopped_is_not_started_again(tmp_path, end):
    runs = Runs(tmp_path, end)
    assert runs.supervised(3) == end[0] and runs.again == [False] and runs.pauses == []


def test_it_goes_on_as_long_as_it_gets_further(tmp_path, capsys):
    runs = Runs(tmp_path, (137, 5, False), (1, 10, False), (1, 15, False), (0, 20, False))
    assert runs.supervised(3) == 0
    assert runs.again == [False, True, True, True] and runs.pauses == [5, 5, 5]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "starting again from checkpoint-5 in 5 s (restart 1 of 3)"
    assert lines[2] == "starting again from checkpoint-15 in 5 s (restart 3 of 3)" and len(lines) == 3


def test_it_is_given_up_without_progress_with_longer_pauses(tmp_path, capsys):
    runs = Runs(tmp_path, (1, 5, False), (1, 5, False), (1, 5, False), (0, 5, False))
    assert runs.supervised(10) == 1 and len(runs.again) == 3 and runs.pauses == [5, 10]
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: given up: 2 starts in a row came no further than checkpoint-5"
    runs = Runs(tmp_path / "nothing", (1, 0, False), (1, 0, False))
    assert runs.supervised(10) == 1 and len(runs.again) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("came no further than its beginning")


def test_it_is_given_up_after_the_number_of_restarts(tmp_path, capsys):
    runs = Runs(tmp_path, (1, 5, False), (1, 10, False), (139, 15, False))
    assert runs.supervised(2) == 139 and len(runs.again) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "error: given up after 2 restart(s)"


def test_without_the_flag_nothing_is_started_again(tmp_path, capsys):
    runs = Runs(tmp_path, (1, 5, False))
    assert runs.supervised(0) == 1 and capsys.readouterr().err == ""


def test_what_was_there_before_is_not_resumed(tmp_path):
    """An old run that was to be replaced, and a folder that held none but has a product by now."""
    (tmp_path / "checkpoint-90").mkdir()
    runs = Runs(tmp_path, (1, 0, False), (1, 5, False), (0, 0, False))
    assert runs.supervised(3) == 0
    assert runs.words == [["train"], ["train"], resuming(["train"])]
    runs = Runs(tmp_path / "new", (1, 0, False), (0, 0, False))
    assert runs.supervised(3) == 0 and runs.words == [["train"], ["train", "--overwrite_output_dir"]]


def test_checkpoints_and_the_command_that_goes_on(tmp_path):
    assert checkpoints_in(tmp_path / "nowhere") == {}
    for name in ("checkpoint-5", "checkpoint-40", "checkpoint-x", ".checkpoint-99.tmp"):
        (tmp_path / name).mkdir()
    assert set(checkpoints_in(tmp_path)) == {5, 40}
    words = resuming(["train", "--overwrite_output_dir", "--resume_from_checkpoint", "latest"])
    parsed = make_parser(words=words).parse_args(words)
    assert parsed.resume_from_checkpoint == "auto" and parsed.overwrite_output_dir is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_restarts", "-1", "train"], "--max_restarts -1: must be at least 0"),
        (["--max_restarts", "1", "evaluate"], "--max_restarts: is for training"),
        (
            ["--max_restarts", "1", "--local_workers", "1", "-n", "2", "train"],
            "--max_restarts: is for the ranks of one",
        ),
    ],
)
def test_wrong_use(flags, message):
    words = ["launch", "-n", "1", *flags]
    with pytest.raises(ConfigError, match=message):
        launch.check(make_parser(words=words).parse_args(words), ["train", "evaluate"])


@pytest.mark.distributed
def test_a_killed_rank_is_made_up_for_to_the_bit(two_ranks, run_flags, tmp_path):
    reference, _ = two_ranks
    folder = tmp_path / "run"
    flags = ["--train_batch_size", 16, "--output_dir", folder, "--overwrite_output_dir"]
    process = start("launch", "-n", 2, "--max_restarts", 2, "train", *run_flags, *flags, "--checkpointing_steps", 1)
    wait_for((folder / "checkpoint-3").exists)
    workers_of(folder)[1].kill()
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert "error: rank 1 was killed by signal 9" in stderr and "(restart 1 of 2)" in stderr
    assert_same_end(folder, reference, 20)
    wait_until_gone(folder)

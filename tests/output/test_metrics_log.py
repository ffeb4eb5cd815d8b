"""The one file of metrics."""

from __future__ import annotations

import json
from math import isnan, nan

from mindone_ddpm.output.metrics_log import MetricsLog, read_curves, recent_mean


def test_a_line_is_in_the_file_at_once(tmp_path):
    log = MetricsLog(tmp_path / "logs")
    log.scalars(1, {"train/loss": 0.5})
    assert (tmp_path / "logs" / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 0.5}\n'
    log.close()


def test_a_resumed_run_goes_on_after_its_step(tmp_path):
    for first, last in ((1, 7), (4, 8)):  # stopped after step 6, and resumed after step 3
        log = MetricsLog(tmp_path, first - 1)
        for step in range(first, last):
            log.scalars(step, {"train/loss": 10.0 * first + step, "train/learning_rate": 0.5})
        log.scalars(last - 1, {"eval/validation_loss": 0.25})
        log.close()
    curves = read_curves(tmp_path)
    assert curves["train/loss"] == {1: 11.0, 2: 12.0, 3: 13.0, 4: 44.0, 5: 45.0, 6: 46.0, 7: 47.0}
    assert curves["eval/validation_loss"] == {7: 0.25}
    MetricsLog(tmp_path).close()
    assert read_curves(tmp_path) == {}  # a new run


def test_a_line_cut_short_costs_that_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "train/loss": 0.5, "train/learning_rate": 1e-3}', '{"step": 2, "train/loss": 0.4}', "[1]"]
    path.write_text("\n".join([*lines, "{}", '{"step": "x"}', '{"step": 3, "note": "text", "train/lo']))
    assert read_curves(tmp_path) == {"train/loss": {1: 0.5, 2: 0.4}, "train/learning_rate": {1: 1e-3}}
    log = MetricsLog(tmp_path, 2)
    log.scalars(3, {"train/loss": 0.3})
    log.close()
    assert path.read_text().splitlines() == [*lines[:2], '{"step": 3, "train/loss": 0.3}']
    path.write_bytes(b'{"step": 1, "train/loss": 1}\n\xff\xfe\n')
    assert read_curves(tmp_path) == {"train/loss": {1: 1.0}}
    assert read_curves(tmp_path / "nowhere") == {}


def test_what_was_written_last_counts(tmp_path):
    values = [(2, 5.0), (1, 1.0), (2, 6.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "x": v}) + "\n" for s, v in values))
    assert list(read_curves(tmp_path)["x"].items()) == [(1, 1.0), (2, 6.0)]


def test_a_value_that_is_not_a_number_is_read_back(tmp_path):
    log = MetricsLog(tmp_path)
    log.scalars(1, {"train/loss": nan})
    log.close()
    assert isnan(read_curves(tmp_path)["train/loss"][1])


def test_numbers_that_are_too_large_are_left_out(tmp_path):
    lines = [f'{{"step": 1, "x": 2, "y": 1{"0" * 400}}}', f'{{"step": 1{"0" * 400}, "x": 3}}', '{"step": true, "x": 4}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert read_curves(tmp_path) == {"x": {1: 2.0}}


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path, capsys):
    class Disk:
        """Takes 40 bytes, then, once it has refused a line, all."""

        def __init__(self, file):
            self.file, self.room = file, 40

        def write(self, line: bytes) -> int:
            if self.room == 0:
                self.room = 10**6
                raise OSError(28, "No space left on device")
            size = min(self.room, len(line))
            self.room -= size
            return self.file.write(line[:size])

        def close(self) -> None:
            self.file.close()

    log = MetricsLog(tmp_path)
    log.file = Disk(log.file)
    for step in range(1, 5):
        log.scalars(step, {"train/loss": 0.5})
    log.close()
    assert read_curves(tmp_path)["train/loss"] == {1: 0.5, 4: 0.5}
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "metrics.jsonl: cannot be written" in said


def test_the_recent_mean_in_words():
    assert recent_mean({step: 1.0 if step <= 50 else 0.5 for step in range(1, 101)}) == "0.5, mean of the last 50 steps"
    assert recent_mean({1: 2.0}) == "2, mean of the last 1 steps"


def test_a_long_run_keeps_what_the_report_needs(tmp_path, monkeypatch):
    """The file stays small; its curves reach from the first step to the last, and every evaluation is there."""
    from mindone_ddpm.common import rotation

    monkeypatch.setattr(rotation, "RECENT_LINES", 100)
    log = MetricsLog(tmp_path, most_bytes=50_000)
    for step in range(1, 10_001):
        log.scalars(step, {"train/loss": 1.0 / step, "train/learning_rate": 1e-4})
        if step % 100 == 0:
            log.scalars(step, {"eval/fid": float(step)})
    log.close()
    assert (tmp_path / "metrics.jsonl").stat().st_size < 80_000
    curves = read_curves(tmp_path)
    assert sorted(curves["eval/fid"]) == list(range(100, 10_001, 100))
    steps = sorted(curves["train/loss"])
    assert steps[0] == 1 and steps[-100:] == list(range(9_901, 10_001)) and 200 < len(steps) < 2000
    assert 1 < len(rotation.parts_of(tmp_path / "metrics.jsonl")) <= rotation.KEPT_PARTS
    log = MetricsLog(tmp_path, 9_950)  # resumed
    log.scalars(9_951, {"train/loss": 0.5})
    log.close()
    assert max(read_curves(tmp_path)["train/loss"]) == 9_951

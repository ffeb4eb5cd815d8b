"""The page about a run."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from math import nan
from pathlib import Path

import pytest
import yaml
from conftest import run_program
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.jobs.preview import preview_of_run
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.output import report
from mindone_ddpm.output.run_state import read_state

HUGE = json.dumps({"figure": "fid", "value": 10**400, "step": 1})


class Reader(HTMLParser):
    """Notes titles, cells and whatever would be fetched from elsewhere; complains about tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.titles, self.outside, self.text = [], [], [], ""
        self.images: list[Image.Image] = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        source = given.get("src") or given.get("href")
        if source and source.startswith("data:image/png;base64,"):
            self.images.append(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        elif source:
            self.outside.append(source)
        if tag not in ("meta", "img", "input", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "figcaption"):
            self.titles.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == [] and reader.outside == []
    return reader


def test_a_real_run_on_one_page(digits_flags, tmp_path):
    folder = tmp_path / "a <run>"
    result = run_program(
        *("train", *digits_flags, "--max_train_steps", 60, "--save_image_epochs", 1, "--eval_batch_size", 4),
        *("--ddpm_num_inference_steps", 2, "--validation_split", 0.1, "--validation_loss_steps", 20),
        *("--validation_num_images", 10, "--checkpointing_steps", 30, "--output_dir", folder),
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "training_config.yaml").read_text().startswith("# mindone-ddpm train\n")
    state = read_state(folder)
    assert (state["state"], state["total_steps"], state["images_per_step"]) == ("finished", 60, 32)
    result = run_program("report", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(folder / "report.html")
    page = read(folder / "report.html")
    for title in (
        "a <run>",
        "Samples over the epochs",
        "Denoising",
        "loss",
        "learning rate",
        "images per second",
        "Settings that differ from the default",
        "Versions",
    ):
        assert title in page.titles, title
    assert "validation_loss" in page.titles and "Loss by timestep" in page.titles
    assert "Data: above as stored, below as the model sees it" in page.titles
    epochs = len(list((folder / "samples").glob("*.png")))
    assert len(page.images) == epochs + 2 and epochs > 1
    with Image.open(folder / "trajectory.png") as strip:
        assert strip.size == (2 * 66 + 2, 4 * 66 + 2)  # four pictures, each after both steps
    assert "0.001" in page.text and "mindspore" in page.text  # the learning rate set, and a version
    content = (folder / "report.html").read_text()
    assert content.count("hidden=") == epochs - 1  # one grid is seen
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", content)


def test_several_runs_on_one_page(tmp_path):
    for name, rate in {"a <b>": 1e-3, "b": 1e-4}.items():
        run = tmp_path / name
        (run / "samples").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(run / "samples" / "step-000020.png")
        settings = {"dataset_name": "digits", "learning_rate": rate, "output_dir": name, "seed": 0}
        (run / "training_config.yaml").write_text("# mindone-ddpm train\n" + yaml.safe_dump(settings))
        (run / "logs").mkdir()
        lines = (json.dumps({"step": step, "train/loss": rate * step}) for step in range(1, 21))
        (run / "logs" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = run_program("report", "a <b>", "b", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "comparison.html\n"), result.stderr
    page = read(tmp_path / "comparison.html")
    assert {"In short", "Curves", "loss", "Last samples", "a <b>, step 20", "Settings that differ"} <= {*page.titles}
    assert "learning_rate0.0010.0001" in page.text and "seed" not in page.text and "output_dir" not in page.text
    content = (tmp_path / "comparison.html").read_text()
    assert 'class="line c0"' in content and 'class="line c1"' in content and len(page.images) == 2
    result = run_program("report", "b", *["b"] * 8, cwd=tmp_path)
    assert result.returncode == 2 and "9 runs: at most 8" in result.stderr
    assert run_program("report", "b", "nowhere", cwd=tmp_path).returncode == 2


def test_settings_that_differ_from_the_default_come_first(tmp_path):
    settings = {"seed": 0, "dataset_name": "digits", "learning_rate": 0.5}
    (tmp_path / "training_config.yaml").write_text("# mindone-ddpm train\n" + yaml.safe_dump(settings))
    text = report.write_report(tmp_path, config_class=TrainingConfig).read_text()
    assert text.index("learning_rate") < text.index("1 settings at their default") < text.index("<th>seed</th>")
    text = report.write_report(tmp_path).read_text()  # of a job that is not known
    assert "at their default" not in text and "<th>seed</th>" in text


def test_odd_files_cost_their_part_alone(tmp_path):
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "samples" / "0001.png")
    (tmp_path / "samples" / "0002.png").write_bytes(b"no image")
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    values = {"step": 1, "eval/validation_loss_t000-499": nan, "eval/validation_loss_t500-999": 0.5}
    (tmp_path / "logs" / "metrics.jsonl").write_text(json.dumps(values) + '\n{"step": 2, "ev')
    page = read(report.write_report(tmp_path))
    assert len(page.images) == 1 and "0002.png cannot be read" in page.text
    assert "nan" not in re.sub(r"data:image/png;base64,[^\"]*", "", (tmp_path / "report.html").read_text())


def test_the_data_of_text_to_image(captioned_digits, tmp_path):
    settings = {"dataset_name": str(captioned_digits), "image_size": 16}
    for first_line, given in (
        ("", settings),
        ("", {**settings, "rank": 4}),
        ("# mindone-ddpm train_text_to_image\n", {**settings, "output_dir": "a"}),
    ):
        (tmp_path / "training_config.yaml").write_text(first_line + yaml.safe_dump(given))
        path = preview_of_run(tmp_path, given, tmp_path)
        assert path is not None and path.parent == tmp_path and Image.open(path).size[0] > 64
        path.unlink()
    assert preview_of_run(tmp_path, {**given, "dataset_name": str(tmp_path / "moved")}, tmp_path) is None
    assert preview_of_run(tmp_path, {**given, "a_later_setting": 1}, tmp_path) is None
    (tmp_path / "training_config.yaml").write_text("# mindone-ddpm train_what_is_not_here\n" + yaml.safe_dump(given))
    assert preview_of_run(tmp_path, given, tmp_path) is None


def test_the_preview_is_made_from_the_settings(tmp_path):
    (tmp_path / "training_config.yaml").write_text("dataset_name: digits\n")
    image = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(image)
    given = []
    page = read(report.write_report(tmp_path, preview=lambda settings: given.append(settings) or image))
    assert given == [{"dataset_name": "digits"}] and len(page.images) == 1
    assert "Data: above as stored, below as the model sees it" in page.titles
    page = read(report.write_report(tmp_path, tmp_path / "pages" / "other.html", preview=lambda settings: None))
    assert page.images == [] and not [title for title in page.titles if title.startswith("Data")]


def test_adapters_are_called_so(tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    page = read(report.write_report(tmp_path))
    assert "adapterssaved" in page.text and "pipeline" not in page.text


def test_folders_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        report.write_report(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no run"):
        report.write_report(tmp_path)
    (tmp_path / "training_config.yaml").write_text("[unclosed")
    with pytest.raises(ConfigError, match="cannot be read"):
        report.write_report(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"figure": 1}', '{"figure": "fid", "value": [1], "step": 1}', "\xff", HUGE]
)
def test_a_damaged_record_of_the_best_is_left_out(tmp_path, content):
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    (run / "model_index.json").write_text("{}")
    (run / "best" / "best.json").write_text(content, encoding="latin-1")
    assert "<th>best</th>" not in report.write_report(run).read_text()
    (run / "best" / "best.json").write_text('{"figure": "fid", "value": 1.5, "step": 1000}')
    assert "fid 1.5 at step 1,000" in report.write_report(run).read_text()

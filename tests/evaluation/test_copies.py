"""Looking for copies of training images: planted copies are found, others are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_program
from PIL import Image

from mindone_ddpm.evaluation.copies import USUAL_SHARE, check_copies, nearest_rows


def test_nearest_rows_by_hand():
    among = np.array([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    distances, nearest = nearest_rows(np.array([[3.0, 0.0], [9.0, 0.0]]), among)
    np.testing.assert_allclose(distances, [3.0, 1.0])
    assert nearest.tolist() == [0, 2]
    distances, nearest = nearest_rows(among, among, skip_same_place=True)
    np.testing.assert_allclose(distances, [5.0, 5.0, np.sqrt(65)])
    assert nearest.tolist() == [1, 0, 1]


@pytest.mark.parametrize("with_held_out", [True, False])
def test_the_share_of_copies(with_held_out):
    rng = np.random.default_rng(0)
    training, held_out, fresh = (rng.standard_normal((1000, 12)) for _ in range(3))
    reference = held_out if with_held_out else None
    assert check_copies(fresh, training, reference).share == pytest.approx(USUAL_SHARE, abs=0.025)
    copied = np.concatenate([fresh[:700], training[:300] + 0.01 * rng.standard_normal((300, 12))])
    check = check_copies(copied, training, reference)
    assert check.share == pytest.approx(0.3 + 0.7 * USUAL_SHARE, abs=0.025)
    assert (check.nearest[700:] == np.arange(300)).all()
    assert check.reference == ("held-out images" if with_held_out else "training images among themselves")


@pytest.fixture
def folders(tmp_path):
    """Training images, held-out ones, and "generated" ones of which every second is a training image."""
    rng = np.random.default_rng(0)

    def write(folder, images):
        (tmp_path / folder).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{number:03d}.png")

    training, generated = rng.integers(0, 256, (2, 40, 16, 16, 3), dtype=np.uint8)
    generated[::2] = np.clip(training[:20].astype(int) + 1, 0, 255)
    write("training", training)
    write("generated", generated)
    return tmp_path


def test_the_command_finds_planted_copies_and_the_report_shows_them(folders):
    run = folders / "run"
    (run / "logs").mkdir(parents=True)
    (run / "training_config.yaml").write_text("dataset_name: digits\n")
    flags = [
        "--fake",
        folders / "generated",
        "--real",
        folders / "training",
        "--metrics",
        "kid",
        "--features",
        "pixels",
    ]
    result = run_program("evaluate", *flags, "--copies", "--output_dir", run / "evaluation")
    assert result.returncode == 0, result.stderr
    assert "copies: 50.0% of the generated images are nearer" in result.stdout
    about = json.loads((run / "evaluation" / "copies.json").read_text())
    assert about["suspicious_share"] == 0.5
    assert all(pair["generated"] == 2 * pair["training"] for pair in about["closest"])
    with Image.open(run / "evaluation" / "copies.png") as grid:
        assert grid.size == (4 * 66 + 2, 4 * 66 + 2)
    assert json.loads((run / "evaluation" / "metrics.json").read_text())["metrics"]["suspicious_share"] == 0.5
    result = run_program("report", run)
    assert result.returncode == 0, result.stderr
    page = (run / "report.html").read_text()
    assert "Copies of training images" in page and "50.0% (5.0% is usual)" in page


def test_what_cannot_be_looked_for(folders, tmp_path):
    fake = ["evaluate", "--fake", folders / "generated", "--metrics", "inception_score", "--features", "digits"]
    for flags, line in (
        ([*fake, "--copies"], "--copies: give the training images"),
        ([*fake, "--held_out", folders], "--held_out: has a meaning with --copies only"),
        ([*fake, "--copies", "--held_out", "nowhere"], "--held_out nowhere: no such folder"),
    ):
        result = run_program(*flags, "--output_dir", tmp_path / "out")
        assert result.returncode == 2 and line in result.stderr, result.stderr


def test_a_run_on_few_images_says_how_to_look_for_copies(digits_flags, tmp_path):
    folder = tmp_path / "run"
    result = run_program("train", *digits_flags, "--max_train_steps", 1, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "are few: the model may copy them" in line]
    command = line.split("mindone-ddpm ")[1].replace("1000", "100").split()
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(held_out / f"{number}.png")
    result = run_program(*command, "--held_out", held_out)
    assert result.returncode == 0, result.stderr
    assert "held-out images" in result.stdout and (folder / "evaluation" / "copies.png").is_file()

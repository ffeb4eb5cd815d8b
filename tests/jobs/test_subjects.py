"""Does it learn the subject? A small Stable Diffusion of digits is taught one: bright squares with a dark three.

The figures that are printed are those of docs/personalise.md:

    bash scripts/test.sh --all tests/jobs/test_subjects.py -s
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROGRAMS, ROOT, run_program
from make_stable_diffusion import NUMBERS, digits
from PIL import Image

from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.scaling import to_pixels
from mindone_ddpm.models.pipelines import load_text_pipeline
from mindone_ddpm.sampling.prompts import generate_from_prompts

pytestmark = pytest.mark.slow
SUBJECT, CLASS = "a picture of a zzz digit", "a picture of a digit"
COMMON = ("--resolution", 16, "--center_crop", "--lr_warmup_steps", 0, "--report_to", "csv", "--checkpointing_steps", 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A pipeline that makes digits for "a picture of a digit" and "a handwritten three"."""
    from mindone_ddpm.data.datasets import load_digits_dataset

    folder = tmp_path_factory.mktemp("base")
    program = [sys.executable, str(PROGRAMS / "make_stable_diffusion.py"), str(folder / "sd"), "400"]
    subprocess.run(program, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    data = load_digits_dataset()
    texts = [[f"a handwritten {NUMBERS[label]}", CLASS] for label in data["label"]]
    data.remove_columns("label").add_column("text", texts).save_to_disk(folder / "captioned")
    result = run_program(
        "train_text_to_image", "--pretrained_model_name_or_path", folder / "sd" / "pipeline", *COMMON,
        "--dataset_name", folder / "captioned", "--cache_latents", "--cache_dir", folder / "cache", "--use_ema",
        "--train_batch_size", 32, "--learning_rate", 1e-3, "--max_train_steps", 1500, "--caption_dropout", 0.1,
        "--output_dir", folder / "digits", timeout_s=1200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "digits"


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Path:
    """Four threes, dark on bright."""
    pictures, labels = digits()
    folder = tmp_path_factory.mktemp("subject")
    for number, picture in enumerate(pictures[labels == 3][:4]):
        Image.fromarray(to_pixels((0.5 - picture / 2).transpose(1, 2, 0))).save(folder / f"{number}.png")
    return folder


def images_of(pipeline, prompt: str) -> np.ndarray:
    return generate_from_prompts(
        pipeline, [prompt] * 16, sample_ids=range(16), batch_size=16, num_inference_steps=25, seed=1, guidance_scale=2.0
    )


def distance(images: np.ndarray, references: np.ndarray) -> float:
    """Root mean square between each image and the nearest of the references; the mean of them."""
    squares = np.square(images[:, None] - references[None]).mean((2, 3, 4))
    return float(np.sqrt(squares.min(1)).mean())


def figures(pipeline, subject: Path, name: str, prompt: str) -> tuple[float, float]:
    """How far images for the subject's prompt are from it, and images for the class's prompt from digits."""
    ours = np.stack([np.asarray(Image.open(path)) / 255.0 for path in sorted(subject.glob("*.png"))])
    pictures, _ = digits()
    of_class = (pictures[:300] / 2 + 0.5).transpose(0, 2, 3, 1)
    made, drifted = images_of(pipeline, prompt), images_of(pipeline, CLASS)
    folder = os.environ.get("SUBJECT_IMAGES")
    if folder:
        make_grid(to_pixels(np.concatenate([made[:8], drifted[:8]])), columns=8).save(Path(folder) / f"{name}.png")
    found = distance(made, ours), distance(drifted, of_class)
    print(f"{name}: subject {found[0]:.3f}, class {found[1]:.3f}")
    return found


def train(command: str, base: Path, subject: Path, out: Path, *flags: object) -> Path:
    result = run_program(
        command, "--pretrained_model_name_or_path", base, "--train_data_dir", subject, *COMMON, *flags,
        "--cache_dir", out.parent / "cache", "--output_dir", out, timeout_s=1200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out


def test_a_subject_is_learned_and_its_class_stays(graph_mode, base, subject, tmp_path):
    before = figures(load_text_pipeline(str(base)), subject, "before", SUBJECT)
    dreambooth = (
        *("--instance_prompt", SUBJECT, "--train_batch_size", 4, "--max_train_steps", 300, "--learning_rate", 2e-4),
        *("--train_text_encoder", "--use_ema"),
    )
    prior = (
        *("--with_prior_preservation", "--class_prompt", CLASS, "--class_data_dir", tmp_path / "class"),
        *("--num_class_images", 64, "--sample_batch_size", 32),
    )
    alone = train("train_dreambooth", base, subject, tmp_path / "alone", *dreambooth)
    kept = train("train_dreambooth", base, subject, tmp_path / "kept", *dreambooth, *prior)
    without = figures(load_text_pipeline(str(alone)), subject, "dreambooth", SUBJECT)
    with_prior = figures(load_text_pipeline(str(kept)), subject, "dreambooth, prior preservation", SUBJECT)
    assert without[0] < 0.75 * before[0] and with_prior[0] < 0.75 * before[0]
    assert with_prior[1] < 1.5 * before[1] and with_prior[1] < 0.7 * without[1]

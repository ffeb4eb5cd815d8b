"""Geometric augmentation by hand, and that a network which is told of it does not show it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from conftest import run_program
from data_helpers import digits_config, make_job
from PIL import Image
from safetensors.numpy import load_file

from mindone_ddpm.common.randomness import SAMPLE_STREAM, random_stream
from mindone_ddpm.data.augment import CONDITION_SIZE, draw_transform, warp
from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.preview import draw_preview
from mindone_ddpm.data.scaling import from_model_range, to_model_range, to_pixels
from mindone_ddpm.evaluation.digits_network import load_digits_network
from mindone_ddpm.evaluation.metrics import frechet_distance

IMAGE = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8)).astype(np.float32)


def about_the_middle(*rows) -> np.ndarray:
    return np.array([*rows, [0, 0, 1]], np.float64)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (about_the_middle([-1, 0, 0], [0, 1, 0]), IMAGE[:, :, ::-1]),
        (about_the_middle([1, 0, 0], [0, -1, 0]), IMAGE[:, ::-1]),
        (about_the_middle([0, -1, 0], [1, 0, 0]), np.rot90(IMAGE, -1, (1, 2))),  # clockwise on the screen
        (about_the_middle([1, 0, 0.25], [0, 1, 0]), np.concatenate([IMAGE[:, :, 1::-1], IMAGE[:, :, :-2]], axis=2)),
    ],
)
def test_transformations_by_hand(matrix, expected):
    np.testing.assert_allclose(warp(IMAGE, matrix), expected, atol=1e-5)
    np.testing.assert_allclose(warp(IMAGE[:1], matrix), expected[:1], atol=1e-5)


def test_nothing_is_told_where_nothing_is_done():
    none = draw_transform(np.random.default_rng(0), 0.0)
    assert (none.matrix == np.eye(3)).all() and (none.condition == 0).all()
    assert warp(IMAGE, none.matrix) is IMAGE
    drawn = [draw_transform(random_stream(0, 2, place), 0.3) for place in range(2000)]
    for one in drawn:
        assert (one.matrix == np.eye(3)).all() == (one.condition == 0).all()
    told = np.array([one.condition for one in drawn])
    np.testing.assert_allclose((told[:, [0, 1, 2, 4, 5, 7]] != 0).mean(0), 0.3, atol=0.04)
    for column in (2, 7, 8):  # in units of their deviation
        assert told[told[:, column] != 0, column].std() == pytest.approx(1.0, abs=0.1)
    after = np.random.default_rng(1), np.random.default_rng(1)
    draw_transform(after[0], 0.0), draw_transform(after[1], 1.0)
    assert after[0].random() == after[1].random()  # the same number of draws


def test_the_preview_shows_what_is_trained_on():
    config = digits_config(augment_probability=0.9)
    job = make_job(config)
    order = job.records.order(config.seed, 0)[:4]
    batch = job.make_batch(order, [random_stream(config.seed, SAMPLE_STREAM, place) for place in range(4)])
    expected = make_grid(to_pixels(from_model_range(batch["images"])).transpose(0, 2, 3, 1)).convert("RGB")
    page = draw_preview([job.records], 4, config.seed, 0.9)
    shown = page.crop((0, page.height - expected.height, expected.width, page.height))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))


def test_at_zero_the_network_is_the_plain_one(either_mode):
    config = digits_config(augment_probability=0.5)
    job, plain = make_job(config), make_job(digits_config())
    job.augment.weight.set_data(
        ms.Tensor(np.random.default_rng(0).standard_normal(job.augment.weight.shape), ms.float32)
    )
    assert job.unet.parameters_dict().keys() == plain.unet.parameters_dict().keys()
    for ours, theirs in zip(job.unet.get_parameters(), plain.unet.get_parameters(), strict=True):
        ours.set_data(ms.Tensor(theirs.asnumpy()))
    batch = job.make_batch(
        np.arange(config.train_batch_size), [random_stream(0, 2, place) for place in range(config.train_batch_size)]
    )
    assert batch["augmentation"].any()

    def loss(which, **changes):
        columns = {**batch, **changes}
        cell = which.loss_cell().set_train()
        return cell(
            *(ms.Tensor(columns[name]) for name in ("images", "noise", "timesteps")),
            None,
            None,
            None,
            *([ms.Tensor(columns["augmentation"])] if which.augment is not None else []),
        ).asnumpy()

    told_nothing = loss(job, augmentation=np.zeros_like(batch["augmentation"]))
    np.testing.assert_allclose(told_nothing, loss(plain), rtol=1e-5)
    assert np.abs(loss(job) - told_nothing).max() > 1e-3


def test_a_run_resumes_to_the_bit_and_saves_a_plain_unet(digits_flags, tmp_path):
    flags = [*digits_flags, "--augment_probability", 0.4, "--checkpointing_steps", 4, "--max_train_steps", 8]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = run_program("train", *flags, "--output_dir", whole)
    assert result.returncode == 0, result.stderr
    assert "mirrored or turned digits are none" in result.stdout
    result = run_program("train", *flags, "--output_dir", stopped, "--resume_from_checkpoint", whole / "checkpoint-4")
    assert result.returncode == 0, result.stderr
    for name in ("unet/diffusion_pytorch_model.safetensors", "checkpoint-8/augment/parameters.safetensors"):
        one, other = load_file(whole / name), load_file(stopped / name)
        assert one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)
    assert one["weight"].shape[0] == CONDITION_SIZE and one["weight"].any()
    plain = run_program("train", *digits_flags, "--max_train_steps", 1, "--output_dir", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    saved, expected = (
        load_file(path / "unet" / "diffusion_pytorch_model.safetensors") for path in (whole, tmp_path / "plain")
    )
    assert {key: value.shape for key, value in saved.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.slow
def test_augmentation_does_not_show_in_samples(digits_flags, tmp_path):
    """Features and borders of samples of a model with augmentation, and of one without that has seen as many digits as
    they are: of six transformations, each with that probability, none is applied to 38 % of the images."""
    probability, steps = 0.15, 4000
    network = load_digits_network()
    records = make_job(digits_config()).records
    plain = np.stack([records.image(index) for index in range(len(records))])
    transforms = [draw_transform(random_stream(1, 2, place), probability) for place in range(len(plain))]
    warped = np.stack([warp(to_model_range(image), one.matrix) for image, one in zip(plain, transforms, strict=True)])

    def samples(name: str, steps: int, *more: object) -> np.ndarray:
        flags = ["--max_train_steps", steps, "--objective", "flow_matching", *more, "--output_dir", tmp_path / name]
        result = run_program("train", *digits_flags, *flags, timeout_s=900)
        assert result.returncode == 0, result.stderr
        flags = ["--num_images", 1500, "--batch_size", 100, "--output_dir", tmp_path / f"{name}-samples"]
        result = run_program("sample", "--model", tmp_path / name, *flags, timeout_s=600)
        assert result.returncode == 0, result.stderr
        paths = sorted((tmp_path / f"{name}-samples").glob("0*.png"))
        return np.stack([np.asarray(Image.open(path)) for path in paths])[..., None]

    def distance(pixels: np.ndarray) -> float:
        """Between features, to the digits as they are."""
        found = [network(each)[0].astype(np.float64) for each in (pixels, plain.transpose(0, 2, 3, 1))]
        return frechet_distance(*(part for each in found for part in (each.mean(0), np.cov(each.T))))

    def sides(pixels: np.ndarray) -> float:
        """Mean brightness of the first and the last column, which are dark in digits."""
        return float(pixels[:, :, [0, -1]].mean()) / 255.0

    shown = {
        "digits": plain.transpose(0, 2, 3, 1),
        "augmented digits": to_pixels(from_model_range(warped)).transpose(0, 2, 3, 1),
        "samples without augmentation": samples("without", round(steps * (1.0 - probability) ** 6)),
        "samples with augmentation": samples("with", steps, "--augment_probability", probability),
    }
    for name, pixels in shown.items():
        print(f"{name}: distance to the digits {distance(pixels):.2f}, brightness of the sides {sides(pixels):.4f}")
    usual, augmented, without, told = shown.values()
    assert distance(told) - distance(without) < 0.1 * distance(augmented)
    assert abs(sides(told) - sides(without)) < 0.1 * (sides(augmented) - sides(usual))

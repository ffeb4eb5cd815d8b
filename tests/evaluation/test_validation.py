"""The loss on held-out images."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime, run_program
from PIL import Image

from mindone_ddpm.data.images import DataError
from mindone_ddpm.evaluation.validation_loss import NUM_BUCKETS, ValidationLoss
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.data import open_records
from mindone_ddpm.jobs.unconditional.job import UnconditionalJob

ALONE = cpu_runtime()


def digits(small_model, **changes) -> TrainingConfig:
    settings = {"dataset_name": "digits", "channels": 1, "image_size": 8, "max_train_samples": 200}
    return TrainingConfig(**{**settings, "model_config_name_or_path": str(small_model), **changes})


def test_the_split_is_the_same_for_every_seed_and_keeps_images_and_labels_together(small_model):
    whole = open_records(digits(small_model, class_conditional=True))
    parts = [open_records(digits(small_model, class_conditional=True, validation_split=0.1, seed=s)) for s in (1, 2)]
    for training in parts:
        held_out = training.held_out
        assert (len(training), len(held_out)) == (180, 20)
    known = {whole.image(index).tobytes() for index in range(200)}
    kept = [training.image(index).tobytes() for index in range(180)]
    aside = [held_out.image(index).tobytes() for index in range(20)]
    assert not {*kept} & {*aside} and {*kept} | {*aside} == known
    assert [parts[0].held_out.image(index).tobytes() for index in range(20)] == aside
    by_image = {whole.image(index).tobytes(): whole.label(index) for index in range(200)}
    assert [held_out.label(index) for index in range(20)] == [by_image[content] for content in aside]


def make_loss(small_model, batch_size=16, num_images=6, **changes) -> ValidationLoss:
    config = digits(small_model, validation_split=0.1, **changes)
    config = replace(config, train_batch_size=batch_size, validation_num_images=num_images, mixed_precision="no")
    ms.set_seed(3)
    (validation,) = UnconditionalJob.open(config, ALONE).evaluators()
    return validation


def test_the_images_are_evenly_spread_over_the_held_out_ones(small_model):
    assert make_loss(small_model, num_images=6).indices == [0, 4, 8, 11, 15, 19]
    assert make_loss(small_model, num_images=100).indices == list(range(20))


@pytest.mark.parametrize("labelled", [False, True])
def test_values_are_those_of_the_formula(graph_mode, small_model, labelled):
    """Noise by hand (Ho et al. 2020, equation 4), the UNet called for one look at a time."""
    validation = make_loss(small_model, class_conditional=labelled)
    found = validation.bucket_means(lambda: None)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    expected = np.zeros(NUM_BUCKETS)
    for number in range(6 * NUM_BUCKETS):
        row = validation.row(number)
        image, noise, timestep, label = row["images"], row["noise"], row["timesteps"], row.get("labels")
        assert timestep // 100 == number % NUM_BUCKETS and np.abs(image).max() <= 1
        noisy = np.sqrt(alphas[timestep]) * image + np.sqrt(1 - alphas[timestep]) * noise
        labels = [ms.Tensor([label], ms.int32)] if labelled else []
        answer = validation.network(ms.Tensor(noisy[None], ms.float32), ms.Tensor([timestep], ms.int32), *labels)[0]
        expected[number % NUM_BUCKETS] += ((answer.asnumpy() - noise) ** 2).mean() / 6
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_neither_the_batch_size_nor_how_a_run_trains_changes_it(graph_mode, small_model):
    plain = make_loss(small_model).bucket_means(lambda: None)
    other = make_loss(small_model, batch_size=7, seed=5, snr_gamma=5.0, loss_type="l1", random_flip=True)
    np.testing.assert_allclose(other.bucket_means(lambda: None), plain, rtol=1e-5)


def curve(folder) -> dict[tuple[int, str], float]:
    rows = [line.split(",") for line in (folder / "logs" / "evaluation.csv").read_text().splitlines()]
    return {(int(step), name): float(value) for step, name, value in rows}


@pytest.mark.slow
def test_a_curve_in_the_tracker_the_same_on_two_ranks(digits_flags, tmp_path):
    flags = [
        *("train", *digits_flags, "--validation_split", 0.05, "--validation_loss_steps", 10, "--max_train_steps", 20),
        *("--validation_num_images", 30, "--checkpointing_steps", 0),
    ]
    result = run_program(*flags, "--output_dir", tmp_path / "one")
    assert result.returncode == 0, result.stderr
    assert "1,707 images at 8x8, 1 channel(s), and 90 held out" in result.stdout
    alone = curve(tmp_path / "one")
    assert {step for step, _ in alone} == {10, 20} and len(alone) == 2 * (1 + NUM_BUCKETS)
    assert alone[20, "eval/validation_loss"] < alone[10, "eval/validation_loss"]
    assert f"step 20: validation_loss {alone[20, 'eval/validation_loss']:.5g}" in result.stderr
    result = run_program("launch", "-n", 2, *flags, "--train_batch_size", 16, "--output_dir", tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert curve(tmp_path / "two") == pytest.approx(alone, rel=1e-3)


def test_a_folder_of_its_own(small_model, image_folder, tmp_path):
    config = TrainingConfig(train_data_dir=str(image_folder), image_size=16, class_conditional=True)
    folder = tmp_path / "held out"
    for name in ("cold", "warm"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "navy").save(folder / name / "a.png")
    config.validation_data_dir = str(folder)
    held_out = open_records(config).held_out
    assert len(held_out) == 2 and held_out.labels.names == ["cold", "warm"]
    (folder / "warm").rename(folder / "hot")
    with pytest.raises(DataError, match="its classes are cold, hot, but those trained on are cold, warm"):
        open_records(config)
    config.validation_data_dir = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"--validation_data_dir .*nowhere"):
        open_records(config)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--validation_split", 0.0001], 2, "--validation_split 0.0001: holds out 0 of 1797 images"),
        (["--validation_split", 0.1, "--validation_data_dir", "x"], 2, "give only one of them"),
        (["--validation_split", 0.1, "--streaming"], 2, "a stream cannot be split"),
        (["--validation_loss_steps", 5], 2, "needs --validation_split or --validation_data_dir"),
    ],
)
def test_wrong_use(digits_flags, tmp_path, flags, status, message):
    result = run_program("train", *digits_flags, *flags, "--output_dir", tmp_path / "run")
    assert (result.returncode, message in result.stderr) == (status, True), result.stderr
    assert not (tmp_path / "run").exists()

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindone_ddpm import models, sampling
from mindone_ddpm.config import TrainingConfig
from mindone_ddpm.data import random_stream

CONFIG = TrainingConfig(preset="tiny", image_size=8, channels=1)


@pytest.fixture(scope="module")
def unet():
    from conftest import set_mode

    set_mode("graph")
    ms.set_seed(5)
    return models.make_unet(CONFIG)


def generate(unet, scheduler, **values):
    settings = {"numbers": range(5), "batch_size": 5, "num_inference_steps": 4, "seed": 3, **values}
    return sampling.generate(unet, scheduler, **settings)


def test_pictures_are_those_of_the_ddpm_pipeline(unet):
    scheduler = models.make_noise_scheduler(CONFIG)
    generators = [random_stream(3, sampling.PICTURE_STREAM, number) for number in range(5)]
    pipeline = models.DDPMPipeline(unet=unet.set_train(False), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(batch_size=5, generator=generators, num_inference_steps=4, output_type="np")[0]
    found = generate(unet, scheduler)
    assert np.abs(found / 255.0 - expected).max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver++"])
def test_a_picture_depends_on_seed_and_number_only(unet, name):
    scheduler = models.make_sampler(name, models.make_noise_scheduler(CONFIG))
    whole = generate(unet, scheduler)
    for batch_size in (2, 3):
        parts = generate(unet, scheduler, batch_size=batch_size).astype(int)
        assert np.abs(parts - whole).max() <= 1  # rounding: sums are taken in another order
    assert (generate(unet, scheduler, seed=4) != whole).mean() > 0.5
    fewer = generate(unet, scheduler, numbers=[0, 1]).astype(int)
    assert np.abs(fewer - whole[:2]).max() <= 1


def test_sampling_leaves_the_training_mode_and_the_random_state_alone(unet):
    scheduler = models.make_noise_scheduler(CONFIG)
    unet.set_train(True)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    generate(unet, scheduler)
    assert unet.training
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_any_numbers_can_be_asked_for(unet):
    scheduler = models.make_noise_scheduler(CONFIG)
    whole = generate(unet, scheduler).astype(int)
    some = generate(unet, scheduler, numbers=[4, 1, 3], batch_size=2)
    assert np.abs(some - whole[[4, 1, 3]]).max() <= 1


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 1, 1), (5, 2, 3), (16, 4, 4), (17, 4, 5)])
def test_grids_are_near_square(number, rows, columns):
    grid = sampling.make_grid(np.zeros((number, 100, 100, 3), np.uint8))
    assert grid.size == (columns * 102 + 2, rows * 102 + 2)


def test_a_grid_shows_each_picture_in_its_place_enlarged():
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    grid = np.asarray(sampling.make_grid(pictures))
    assert grid.shape == (134, 134)
    assert [grid[2, 2], grid[2, 131], grid[131, 2], grid[131, 131]] == [0, 1, 2, 3]

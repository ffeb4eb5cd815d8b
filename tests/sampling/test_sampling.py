from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import IMAGE_STREAM, random_stream
from mindone_ddpm.config.groups import SAMPLERS
from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.scaling import to_pixels
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import pipelines, schedulers
from mindone_ddpm.models.unet import make_unet
from mindone_ddpm.objectives import choose
from mindone_ddpm.sampling import generate as sampling
from mindone_ddpm.sampling.generate import choose_labels, make_denoiser
from mindone_ddpm.sampling.images import Trajectory, save_image

CONFIG = TrainingConfig(preset="tiny", image_size=8, channels=1)


@pytest.fixture(scope="module")
def unet():
    from conftest import set_mode

    set_mode("graph")
    ms.set_seed(5)
    return make_unet(CONFIG)


def generate(unet, scheduler, **values):
    settings = {"sample_ids": range(5), "batch_size": 5, "num_inference_steps": 4, "seed": 3, **values}
    return to_pixels(sampling.generate(unet, scheduler, **settings))


def test_images_are_those_of_the_ddpm_pipeline(unet):
    scheduler = choose.make_noise_scheduler(CONFIG)
    generators = [random_stream(3, IMAGE_STREAM, number) for number in range(5)]
    pipeline = pipelines.pipeline_class("DDPMPipeline")(unet=unet.set_train(False), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(batch_size=5, generator=generators, num_inference_steps=4, output_type="np")[0]
    found = generate(unet, scheduler)
    assert np.abs(found / 255.0 - expected).max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_depends_on_seed_and_number_only(unet, name):
    scheduler = schedulers.make_sampler(name, choose.make_noise_scheduler(CONFIG))
    whole = generate(unet, scheduler)
    for batch_size in (2, 3):
        parts = generate(unet, scheduler, batch_size=batch_size).astype(int)
        assert np.abs(parts - whole).max() <= 1  # rounding: sums are taken in another order
    assert (generate(unet, scheduler, seed=4) != whole).mean() > 0.5
    fewer = generate(unet, scheduler, sample_ids=[0, 1]).astype(int)
    assert np.abs(fewer - whole[:2]).max() <= 1


def test_sampling_leaves_the_training_mode_and_the_random_state_alone(unet):
    scheduler = choose.make_noise_scheduler(CONFIG)
    unet.set_train(True)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    generate(unet, scheduler)
    assert unet.training
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_any_numbers_can_be_asked_for(unet):
    scheduler = choose.make_noise_scheduler(CONFIG)
    whole = generate(unet, scheduler).astype(int)
    some = generate(unet, scheduler, sample_ids=[4, 1, 3], batch_size=2)
    assert np.abs(some - whole[[4, 1, 3]]).max() <= 1


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 1, 1), (5, 2, 3), (16, 4, 4), (17, 4, 5)])
def test_grids_are_near_square(number, rows, columns):
    grid = make_grid(np.zeros((number, 100, 100, 3), np.uint8))
    assert grid.size == (columns * 102 + 2, rows * 102 + 2)


def test_a_grid_shows_each_image_in_its_place_enlarged():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    grid = np.asarray(make_grid(images))
    assert grid.shape == (134, 134)
    assert [grid[2, 2], grid[2, 131], grid[131, 2], grid[131, 131]] == [0, 1, 2, 3]


# --- classes and guidance


@pytest.fixture(scope="module")
def labelled_unet():
    from conftest import set_mode

    set_mode("graph")
    ms.set_seed(5)
    unet = make_unet(CONFIG, ["cat", "dog", "owl"])
    weight = unet.class_embedding.embedding_table if hasattr(unet.class_embedding, "embedding_table") else None
    weight = unet.class_embedding.weight if weight is None else weight
    weight.set_data(ms.Tensor(np.random.default_rng(0).standard_normal(weight.shape), ms.float32))
    return unet.set_train(False)


def test_guidance_is_the_line_through_both_predictions(labelled_unet):
    """Ho & Salimans 2022: f_none + s (f_class - f_none)."""
    images = ms.Tensor(np.random.default_rng(0).standard_normal((2, 1, 8, 8)), ms.float32)
    timesteps = ms.Tensor([700, 700], ms.int32)
    made = {
        scale: make_denoiser(labelled_unet, [0, 2], scale)(images, timesteps).asnumpy() for scale in (0.0, 1.0, 3.0)
    }
    with_class = labelled_unet(images, timesteps, ms.Tensor([0, 2], ms.int32))[0].asnumpy()
    without = labelled_unet(images, timesteps, ms.Tensor([3, 3], ms.int32))[0].asnumpy()
    np.testing.assert_allclose(made[0.0], without, atol=1e-6)
    np.testing.assert_allclose(made[1.0], with_class, atol=1e-6)
    np.testing.assert_allclose(made[3.0], without + 3 * (with_class - without), atol=1e-5)
    assert np.abs(with_class - without).max() > 1e-3


def test_classes_are_chosen_by_name_and_by_number(labelled_unet, unet):
    assert choose_labels(labelled_unet, None, 5) == [0, 1, 2, 0, 1]
    assert choose_labels(labelled_unet, "owl,1", 3) == [2, 1, 2]
    assert choose_labels(unet, None, 5) is None
    with pytest.raises(ConfigError, match="--class_label cow: the model's classes are cat, dog, owl, or 0 to 2"):
        choose_labels(labelled_unet, "cow", 1)
    with pytest.raises(ConfigError, match="--class_label 3"):
        choose_labels(labelled_unet, "3", 1)
    with pytest.raises(ConfigError, match="--class_label 1: this model has no classes"):
        choose_labels(unet, "1", 1)


# --- samplers, files


def test_ddim_without_noise_and_with_it(unet):
    scheduler = schedulers.make_sampler("ddim", choose.make_noise_scheduler(CONFIG))
    assert (generate(unet, scheduler, eta=1.0) != generate(unet, scheduler, eta=0.0)).any()
    np.testing.assert_array_equal(generate(unet, scheduler, eta=0.0), generate(unet, scheduler))


def test_samplers_keep_what_the_model_predicts_and_can_be_told_spacing_and_clipping(graph_mode):
    trained = choose.make_noise_scheduler(TrainingConfig(prediction_type="v_prediction", ddpm_num_steps=200))
    for name in SAMPLERS:
        sampler = schedulers.make_sampler(name, trained, timestep_spacing="trailing")
        assert sampler.config.prediction_type == "v_prediction" and sampler.config.num_train_timesteps == 200
        assert sampler.config.timestep_spacing == "trailing"
    assert not schedulers.make_sampler("ddim", trained, clip_sample=False).config.clip_sample
    predicts_sample = choose.make_noise_scheduler(TrainingConfig(prediction_type="sample"))
    with pytest.raises(ConfigError, match="--scheduler pndm: cannot use a model that predicts the sample"):
        schedulers.make_sampler("pndm", predicts_sample)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_files_hold_the_values(tmp_path, channels):
    from mindone_ddpm.data.images import decode_precise

    values = np.random.default_rng(0).random((5, 6, channels)).astype(np.float32)
    for bit_depth, error in ((16, 0.51 / 65535), (8, 0.51 / 255)):
        save_image(values, tmp_path / "a.png", bit_depth)
        found = decode_precise(None, str(tmp_path / "a.png"), "a.png")
        assert np.abs(found - values).max() <= error


@pytest.mark.parametrize("kind", ["strip", "gif"])
def test_trajectories_show_the_first_images_over_time(tmp_path, unet, kind):
    scheduler = schedulers.make_sampler("ddim", choose.make_noise_scheduler(CONFIG))
    trajectory = Trajectory(4)
    final = generate(unet, scheduler, on_step=trajectory.add)
    assert len(trajectory.frames) == 4
    np.testing.assert_array_equal(trajectory.frames[-1], final)
    with Image.open(trajectory.save(tmp_path, kind)) as image:
        if kind == "gif":
            assert image.n_frames == 4
        else:
            assert image.size == (4 * 66 + 2, 5 * 66 + 2)

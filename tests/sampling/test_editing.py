from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import pipelines, schedulers
from mindone_ddpm.models.unet import make_unet
from mindone_ddpm.objectives import choose
from mindone_ddpm.sampling import commands, editing
from mindone_ddpm.sampling.config import InpaintConfig, InterpolateConfig
from mindone_ddpm.sampling.generate import initial_noise, make_denoiser

CONFIG = TrainingConfig(preset="tiny", image_size=8, channels=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from conftest import set_mode

    set_mode("graph")
    folder = tmp_path_factory.mktemp("pipeline")
    unet = make_unet(CONFIG)
    pipeline = pipelines.pipeline_class("DDPMPipeline")(unet=unet, scheduler=choose.make_noise_scheduler(CONFIG))
    pipeline.save_pretrained(str(folder))
    return folder


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def test_inpainting_keeps_what_is_known_and_makes_the_rest(model, images):
    config = InpaintConfig(
        model=str(model),
        image=str(images / "a.png"),
        mask=str(images / "mask.png"),
        output_dir=str(images / "out"),
        num_images=2,
        num_inference_steps=12,
        jump_length=3,
        jump_n_sample=2,
    )
    commands.inpaint(config)
    original = np.asarray(Image.open(images / "a.png")).astype(int)
    made = [np.asarray(Image.open(images / "out" / f"a-{version:02d}.png")).astype(int) for version in range(2)]
    for version in made:
        np.testing.assert_allclose(version[:, :4], original[:, :4], atol=1)
    assert (made[0][:, 4:] != made[1][:, 4:]).mean() > 0.5
    with Image.open(images / "out" / "grid.png") as grid:
        assert grid.size == (3 * 66 + 2, 66 + 2)


def test_repaint_goes_back_and_forth_as_often_as_asked(graph_mode):
    scheduler = editing.RePaintScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(20, 5, 3)
    calls = []

    def denoise(images, timesteps):
        calls.append(int(timesteps[0]))
        return images * 0

    images = ms.Tensor(np.zeros((1, 1, 4, 4)), ms.float32)
    editing.repaint(denoise, scheduler, images, images + 1, images, [random_stream(0, 3, 0)])
    forward = 20 + 3 * 2 * 5  # three places to jump back from, twice each, five steps
    assert len(calls) == forward
    assert calls[-1] == 0 and calls[0] == 95


def test_interpolation_with_little_noise_begins_and_ends_with_the_images(model, images):
    config = InterpolateConfig(
        model=str(model),
        image_a=str(images / "a.png"),
        image_b=str(images / "b.png"),
        output_dir=str(images / "out"),
        num_images=3,
        num_inference_steps=50,
        strength=0.02,
    )
    commands.interpolate(config)
    row = [np.asarray(Image.open(images / "out" / f"{n:05d}.png")).astype(int) for n in range(3)]
    ends = [np.asarray(Image.open(images / f"{name}.png")).astype(int) for name in "ab"]
    assert np.abs(row[0] - ends[0]).mean() < 10 and np.abs(row[2] - ends[1]).mean() < 10
    assert np.abs(row[1] - (ends[0] + ends[1]) / 2).mean() < 10


def test_what_will_not_do(model, images):
    good = {"model": str(model), "image": str(images / "a.png"), "mask": str(images / "mask.png")}
    out = str(images / "out")
    Image.new("L", (8, 8), 255).save(images / "white.png")
    for change, message in (
        ({"image": str(images / "none.png")}, "--image .*none.png: no such file"),
        ({"mask": str(images / "white.png")}, "--mask .*white.png: must have white parts"),
        ({"jump_length": 300}, "--jump_length 300: must be below"),
        ({"mask": ""}, "--mask: give an image"),
        ({"class_label": "3"}, "--class_label 3: this model has no classes"),
    ):
        with pytest.raises(ConfigError, match=message):
            commands.inpaint(InpaintConfig(**{**good, **change}, output_dir=out))
    assert not (images / "out").exists()


def test_the_noise_has_the_samplers_scale(graph_mode):
    unet = make_unet(CONFIG)
    euler = schedulers.make_sampler("euler", choose.make_noise_scheduler(CONFIG))
    euler.set_timesteps(10)
    noise = initial_noise(unet, euler, [random_stream(0, 3, 0)]).asnumpy()
    expected = random_stream(0, 3, 0).standard_normal((1, 8, 8)) * float(euler.init_noise_sigma)
    np.testing.assert_allclose(noise[0], expected, rtol=1e-5)
    assert make_denoiser(unet, None) is not None

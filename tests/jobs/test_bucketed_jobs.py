"""Jobs whose images keep their proportions: batches, caches, rows of two images, what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime, run_program
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import epoch_order, random_stream
from mindone_ddpm.jobs.dreambooth.config import DreamBoothConfig
from mindone_ddpm.jobs.dreambooth.job import DreamBoothJob
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig, TextToImageXLConfig
from mindone_ddpm.jobs.text_to_image.job import TextToImageJob, TextToImageXLJob
from mindone_ddpm.jobs.text_to_image.latents import FrozenLatents
from mindone_ddpm.jobs.textual_inversion.config import TextualInversionConfig
from mindone_ddpm.jobs.textual_inversion.job import TextualInversionJob
from mindone_ddpm.training.setup import build_training

BUCKETS = {"aspect_buckets": True, "bucket_step": 8, "image_size": 32, "center_crop": True, "mixed_precision": "no"}
SHAPES = {(24, 40): (20, 12), (32, 32): (16, 16), (40, 24): (12, 20)}  # size of an image: shape of its latents


@pytest.fixture
def folder(tmp_path):
    """Seven images: four square, two wide, one tall."""
    made = tmp_path / "images"
    made.mkdir()
    generator = np.random.default_rng(0)
    sizes = [(30, 30), (50, 29), (28, 30), (24, 46), (31, 29), (40, 26), (64, 64)]
    for number, (width, height) in enumerate(sizes):
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / f"{number}.png")
    rows = [json.dumps({"file_name": f"{number}.png", "text": f"image {number}"}) for number in range(len(sizes))]
    (made / "metadata.jsonl").write_text("\n".join(rows))
    return made


@pytest.fixture
def config(stable_diffusion, folder, tmp_path) -> TextToImageConfig:
    return TextToImageConfig(
        pretrained_model_name_or_path=str(stable_diffusion),
        train_data_dir=str(folder),
        cache_dir=str(tmp_path / "cache"),
        **BUCKETS,
    )


def batches_of(job, batch_size=2):
    """The batches of the first epoch, with the indices of their rows."""
    config = replace(job.config, train_batch_size=batch_size)
    training = build_training(config, cpu_runtime(), job)
    rows, plan = job.datasets[0], training.plan
    order = rows.order(plan.seed, 0)
    for number in range(plan.batches_per_epoch):
        planned = plan.batch(number, order)
        rngs = [random_stream(0, 2, place) for place in range(batch_size)]
        yield planned.indices, job.make_batch(planned.indices, rngs)


def assert_same_latents(job, batch, with_latents):
    """What is cached is what the autoencoder makes of the batch's images."""
    encode = FrozenLatents(job.base.vae)
    made = encode(ms.Tensor(batch["images"]), ms.Tensor(batch["posterior_noise"])).asnumpy()
    np.testing.assert_allclose(with_latents["latents"], made, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(with_latents["noise"], batch["noise"])


def test_a_batch_has_the_size_of_its_images(config):
    job = TextToImageJob.open(config, cpu_runtime())
    seen = []
    for indices, batch in batches_of(job):
        (size,) = {job.sources[0].records.size_of(index) for index in indices}
        assert batch["noise"].shape == (2, 4, *SHAPES[size])
        assert batch["images"].shape == (2, 3, size[1], size[0])
        seen.append(size)
    assert sorted(seen) == [(24, 40), (32, 32), (32, 32), (40, 24)]
    assert job.describe()["sizes"].startswith("24x40 (1), 32x32 (4), 40x24 (2); 3 graphs to compile")
    assert job.identity()["sizes"] == {"24x40": 1, "32x32": 4, "40x24": 2}


def test_cached_latents_are_those_of_the_networks(config):
    plain = TextToImageJob.open(replace(config, random_flip=True), cpu_runtime())
    cached = TextToImageJob.open(replace(config, random_flip=True, cache_latents=True), cpu_runtime())
    cached.before_training(show_progress=False)
    for (_, batch), (_, with_latents) in zip(batches_of(plain), batches_of(cached), strict=True):
        assert_same_latents(plain, batch, with_latents)


def test_xl_is_told_the_sizes_of_the_bucket(stable_diffusion_xl, config):
    settings = {name: getattr(config, name) for name in ("train_data_dir", *BUCKETS)}
    xl = TextToImageXLConfig(pretrained_model_name_or_path=str(stable_diffusion_xl), **settings)
    job = TextToImageXLJob.open(xl, cpu_runtime())
    wide = job.make_batch(np.array([1]), [random_stream(0, 2, 0)])
    # Height and width as stored, top and left of the crop (50x29 covers 40x24 as 41x24), wanted height and width.
    assert wide["sizes"].tolist() == [[29, 50, 0, 0, 24, 40]]


def test_both_images_of_a_row_have_the_size_of_the_subject(config, tmp_path):
    others = tmp_path / "class"
    others.mkdir()
    for number in range(9):
        Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(others / f"{number}.png")
    settings = {name: getattr(config, name) for name in ("pretrained_model_name_or_path", "train_data_dir", *BUCKETS)}
    texts = {"instance_prompt": "a zzz", "class_prompt": "a digit", "with_prior_preservation": True}
    of_class = {"class_data_dir": str(others), "num_class_images": 9, "cache_dir": str(tmp_path / "cache")}
    both = DreamBoothConfig(**settings, **texts, **of_class)
    job, cached = (DreamBoothJob.open(replace(both, cache_latents=c), cpu_runtime()) for c in (False, True))
    cached.before_training(show_progress=False)
    assert len(job.datasets[0]) == 9
    seen = []
    for (indices, batch), (_, with_latents) in zip(batches_of(job), batches_of(cached), strict=True):
        sizes = {job.sources[0].records.size_of(index % 7) for index in indices}
        assert len(sizes) == 1 and batch["images"].shape[0] == 4
        if len(seen) < 4:
            assert_same_latents(job, batch, with_latents)
        seen += [*np.round((batch["images"][2:, 0, 0, 0] + 1) * 127.5 / 20).astype(int)]
    assert set(seen) == set(range(9))


def test_the_rows_of_a_new_word_repeat_the_groups(config):
    settings = {name: getattr(config, name) for name in ("pretrained_model_name_or_path", "train_data_dir", *BUCKETS)}
    word = {"placeholder_token": "<zzz>", "initializer_token": "digit", "repeats": 3}
    job = TextualInversionJob.open(TextualInversionConfig(**settings, **word), cpu_runtime())
    rows = job.datasets[0]
    assert len(rows) == 21 and np.bincount(rows.groups).tolist() == [3, 12, 6]
    assert rows.order(0, 0).tolist() == epoch_order(0, 0, 21).tolist()


def test_a_batch_that_is_never_full_cannot_be_left_out(config):
    dropped = replace(config, train_batch_size=2, dataloader_drop_last=True)
    with pytest.raises(ConfigError, match="--dataloader_drop_last: of the size 24x40 there are fewer images"):
        TextToImageJob.open(dropped, cpu_runtime())
    TextToImageJob.open(replace(dropped, max_buckets=2), cpu_runtime())


def test_settings_that_contradict(config):
    def problems(**settings):
        with pytest.raises(ConfigError) as refused:
            replace(config, **settings).check()
        return str(refused.value)

    assert "--aspect_buckets and --streaming" in problems(streaming=True, max_train_samples=4)
    assert "--resize_mode squash" in problems(resize_mode="squash")
    assert "--bucket_step 64: must be at most --resolution 32" in problems(bucket_step=64)
    with pytest.raises(ConfigError, match="--bucket_step 9: the autoencoder and the UNet of this pipeline need"):
        TextToImageJob.open(replace(config, bucket_step=9), cpu_runtime())


@pytest.mark.slow
def test_a_run_compiles_each_size_once_and_can_be_repeated(config, tmp_path):
    flags = [
        *("--pretrained_model_name_or_path", config.pretrained_model_name_or_path, "--train_data_dir"),
        *(config.train_data_dir, "--resolution", 32, "--aspect_buckets", "--bucket_step", 8, "--train_batch_size", 2),
        *("--max_train_steps", 8, "--rank", 2, "--report_to", "csv", "--gradient_accumulation_steps", 2),
    ]
    for name in ("one", "two"):
        result = run_program("train_text_to_image", *flags, "--output_dir", tmp_path / name)
        assert result.returncode == 0, result.stderr
        assert "3 graphs to compile" in result.stdout
    weights = [(tmp_path / name / "pytorch_lora_weights.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import PROGRAMS, ROOT, cpu_runtime, run_program
from make_stable_diffusion import NUMBERS, digits
from mindspore import nn
from PIL import Image
from safetensors.numpy import load_file

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.data.columns import CalledByName
from mindone_ddpm.data.images import DataError
from mindone_ddpm.jobs.text_to_image.captions import Captions, find_caption_column, known_texts
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig, TextToImageXLConfig
from mindone_ddpm.jobs.text_to_image.job import TextToImageJob, TextToImageXLJob
from mindone_ddpm.jobs.text_to_image.latents import TextEmbeddings, cache_key
from mindone_ddpm.models import lora, pipelines
from mindone_ddpm.models.unet import num_parameters
from mindone_ddpm.objectives.flow_matching import FlowMatchingObjective
from mindone_ddpm.sampling.prompts import generate_from_prompts


@pytest.fixture
def config(stable_diffusion, captioned_digits, tmp_path) -> TextToImageConfig:
    return TextToImageConfig(
        pretrained_model_name_or_path=str(stable_diffusion),
        dataset_name=str(captioned_digits),
        image_size=16,
        center_crop=True,
        mixed_precision="no",
        cache_dir=str(tmp_path / "cache"),
    )


def make_job(config):
    return TextToImageJob.open(config, cpu_runtime())


def batch_of(job, indices=range(8), place=0):
    generators = [random_stream(0, 2, place + number) for number in range(len(indices))]
    return job.make_batch(np.asarray(indices), generators)


# --- captions


def dataset_of(**columns):
    from datasets import Dataset

    return Dataset.from_dict(columns)


def test_the_column_of_captions_is_found():
    assert find_caption_column(dataset_of(image=[1], text=["a"], file=["b"]), None) == "text"
    assert find_caption_column(dataset_of(image=[1], words=["a"]), None) == "words"
    assert find_caption_column(dataset_of(image=[1], words=[["a", "b"]]), "words") == "words"
    for columns, wanted, message in (
        ({"image": [1]}, None, "--caption_column: no column of captions among image"),
        ({"a": ["x"], "b": ["x"]}, None, r"--caption_column: several columns hold text \(a, b\); name one"),
        ({"image": [1], "text": ["a"]}, "words", "--caption_column words: the data set has image, text"),
        ({"image": [1]}, "image", "--caption_column image: holds"),
    ):
        with pytest.raises(DataError, match=message):
            find_caption_column(dataset_of(**columns), wanted)


class Words:
    """A tokenizer: a number for each word."""

    model_max_length = 5

    def __call__(self, texts, max_length=None, padding=None, truncation=False, verbose=True):
        ids = [[len(word) for word in text.split()] for text in texts]
        if padding:
            ids = [(one + [0] * max_length)[:max_length] for one in ids]
        return type("Encoding", (), {"input_ids": ids})()


def captions_of(*texts):
    return Captions(known_texts("column", texts), Words())


def test_one_of_several_captions_is_chosen_and_long_ones_are_counted():
    captions = captions_of(["a", "b", "c"], ["one two three four five six", ""])
    assert [captions.choose(0, choice) for choice in (0.0, 0.4, 0.99)] == ["a", "b", "c"]
    assert captions.choose(1, 0.5) == ""
    assert captions.describe() == "column; 1 are longer than 5 tokens and are cut off there"
    assert captions.tokens(["one three", ""]).tolist() == [[3, 5, 0, 0, 0], [0] * 5]


def test_captions_are_left_out_in_their_share(graph_mode, config):
    job = make_job(replace(config, caption_dropout=0.3))
    empty = job.sources[0].captions.tokens([""])[0]
    tokens = np.concatenate([batch_of(job, [0] * 50, place=50 * n)["tokens"] for n in range(10)])
    share = (tokens == empty).all(1).mean()
    assert 0.23 < share < 0.37


# --- batches and the cache


def test_batches(graph_mode, config):
    job = make_job(config)
    assert job.columns == ("noise", "timesteps", "images", "posterior_noise", "tokens")
    batch = batch_of(job)
    assert batch["noise"].shape == batch["posterior_noise"].shape == (8, 4, 8, 8)
    assert batch["images"].shape == (8, 3, 16, 16) and batch["tokens"].shape == (8, 16)
    assert {value.dtype for value in batch.values()} == {np.dtype(np.float32), np.dtype(np.int32)}
    text = job.base.tokenizer.decode(batch["tokens"][3], skip_special_tokens=True)
    assert text == "a handwritten three"  # the built-in digits begin with 0, 1, 2, 3
    trained = {parameter.name for parameter in job.unet.trainable_params()}
    assert trained and not any(p.requires_grad for p in [*job.base.vae.get_parameters()])


def test_frozen_networks_do_not_train(graph_mode, config):
    """A train step sets the cells in it to training; a text encoder would drop half of its attention then."""
    job = TextToImageJob.open(config, cpu_runtime())
    for layer in job.base.text_encoder.text_model.encoder.layers:
        layer.self_attn.dropout = 0.5
    tokens = ms.Tensor(job.sources[0].captions.tokens(["a handwritten three"]))
    before = job.base.text_encoder(tokens)[0].asnumpy()
    frozen = TextEmbeddings(job.base, trains=False)
    nn.SequentialCell(frozen).set_train()
    assert not any(cell.training for _, cell in frozen.cells_and_names())
    np.testing.assert_array_equal(frozen.text_encoder(tokens)[0].asnumpy(), before)


@pytest.mark.parametrize(
    ("flip", "vertical"),
    [
        (True, True),
        *(pytest.param(*flips, marks=pytest.mark.slow) for flips in ((False, False), (True, False), (False, True))),
    ],
)
def test_the_cache_gives_what_the_networks_give(graph_mode, config, flip, vertical):
    """Every flip variant is cached, and the draws that come after the flips are the same."""
    config = replace(
        config,
        random_flip=flip,
        random_vertical_flip=vertical,
        noise_offset=0.1,
        input_perturbation=0.1,
        caption_dropout=0.2,
    )
    plain, cached = make_job(config), make_job(replace(config, cache_latents=True))
    cached.before_training(show_progress=False)
    losses = []
    for job in (plain, cached):
        batch = batch_of(job)
        cell = CalledByName(job.loss_cell(), job.columns).set_train(False)
        losses.append(cell(*[ms.Tensor(batch[name]) for name in job.columns]).asnumpy())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_the_cache_is_taken_up_and_left_when_anything_changes(graph_mode, config, monkeypatch):
    config = replace(config, cache_latents=True)
    job = make_job(config)
    job.before_training(show_progress=False)
    monkeypatch.setattr("mindone_ddpm.jobs.text_to_image.latents._encode_images", None)  # it must not be made again
    again = make_job(config)
    again.before_training(show_progress=False)
    keys = {cache_key(config, job.sources[0].records, job.sources[0].captions, job.base)}
    turned = make_job(replace(config, random_flip=True))
    keys.add(cache_key(config, turned.sources[0].records, turned.sources[0].captions, turned.base))
    fewer = make_job(replace(config, max_train_samples=100))
    keys.add(cache_key(config, fewer.sources[0].records, fewer.sources[0].captions, fewer.base))
    job.sources[0].captions.texts.known[0] = ["another text"]
    keys.add(cache_key(config, job.sources[0].records, job.sources[0].captions, job.base))
    weight = next(iter(again.base.vae.get_parameters()))
    weight.set_data(weight + 1)
    keys.add(cache_key(config, again.sources[0].records, again.sources[0].captions, again.base))
    assert len(keys) == 5


# --- LoRA


def test_adapters_at_zero_change_nothing_and_alone_are_trained(graph_mode, config):
    inputs = [
        ms.Tensor(np.random.default_rng(0).standard_normal(shape), ms.float32) for shape in ((2, 4, 8, 8), (2, 16, 32))
    ]
    timesteps = ms.Tensor([3, 700], ms.int32)
    plain, adapted = make_job(config).unet, make_job(replace(config, rank=4)).unet
    answers = [unet.set_train(False)(inputs[0], timesteps, inputs[1])[0].asnumpy() for unet in (plain, adapted)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    assert {parameter.name.split(".")[-1] for parameter in adapted.trainable_params()} == {"lora_down", "lora_up"}
    assert num_parameters(adapted) < 0.1 * num_parameters(plain)


def test_a_pipeline_of_flow_matching_is_trained_as_one(graph_mode, config, stable_diffusion, tmp_path):
    """Such as diffusers' own text-to-image pipelines hold: UniPC on the noise levels of flow matching."""
    folder = tmp_path / "flow"
    shutil.copytree(stable_diffusion, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = "UniPCMultistepScheduler"
    (folder / "model_index.json").write_text(json.dumps(index))
    settings = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**settings, "use_flow_sigmas": True}))
    of_flow = replace(config, pretrained_model_name_or_path=str(folder))
    job = make_job(of_flow)
    assert isinstance(job.objective, FlowMatchingObjective) and job.objective.shift == 3.0
    batch = job.make_batch(np.arange(4), [random_stream(0, 2, place) for place in range(4)])
    assert batch["timesteps"].dtype == np.float32 and (batch["timesteps"] < 1).all()
    loss = CalledByName(job.loss_cell(), job.columns)(*[ms.Tensor(batch[name]) for name in job.columns])
    assert np.isfinite(loss.asnumpy()).all()
    job.save(tmp_path / "saved")
    saved = pipelines.load_text_pipeline(str(tmp_path / "saved"))
    assert type(saved.scheduler).__name__ == "UniPCMultistepScheduler" and saved.scheduler.config.flow_shift == 3.0
    made = generate_from_prompts(
        saved, ["a handwritten two"], sample_ids=[0], batch_size=1, num_inference_steps=3, seed=0
    )
    assert made.shape == (1, 16, 16, 3)
    with pytest.raises(ConfigError, match=r"--prediction_type epsilon: .* was trained by flow matching"):
        make_job(replace(of_flow, prediction_type="epsilon"))


# --- pictures for prompts


def test_a_picture_is_the_pipelines_own_and_depends_on_seed_and_number(graph_mode, config):
    pipeline = pipelines.load_text_pipeline(str(config.pretrained_model_name_or_path))
    prompts = ["a handwritten one", "a handwritten two", "a handwritten one"]

    def make(**values):
        settings = {"sample_ids": range(3), "batch_size": 3, "num_inference_steps": 3, "seed": 1, "guidance_scale": 3.0}
        return generate_from_prompts(pipeline, prompts, **{**settings, **values})

    whole = make()
    assert whole.shape == (3, 16, 16, 3) and whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_allclose(make(batch_size=2), whole, atol=2e-3)
    assert np.abs(make(seed=2) - whole).max() > 0.01
    single = pipeline(
        "a handwritten two",
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=[random_stream(1, 3, 1)],
        output_type="np",
    )[0]
    np.testing.assert_allclose(single[0], whole[1], atol=2e-3)


# --- the whole, through the command line


def distance_from_class(model: Path, number: int) -> float:
    """Root mean square between pictures made for a class's prompt and the mean picture of the class."""
    pictures, labels = digits()
    seen = (pictures[labels == number].mean(0) / 2 + 0.5).transpose(1, 2, 0)
    made = generate_from_prompts(
        pipelines.load_text_pipeline(str(model)),
        [f"a handwritten {NUMBERS[number]}"] * 8,
        sample_ids=range(8),
        batch_size=8,
        num_inference_steps=20,
        seed=0,
        guidance_scale=1.0,
    )
    return float(np.sqrt(np.square(made - seen).mean()))


@pytest.mark.slow
def test_in_200_steps_the_loss_falls_and_pictures_come_closer_to_their_class(graph_mode, text_flags, tmp_path):
    program = [sys.executable, str(PROGRAMS / "make_stable_diffusion.py"), str(tmp_path / "sd"), "150"]
    subprocess.run(program, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    base, out = tmp_path / "sd" / "pipeline", tmp_path / "run"
    result = run_program(
        "train_text_to_image", *text_flags, "--pretrained_model_name_or_path", base, "--cache_latents",
        "--max_train_steps", 200, "--train_batch_size", 32, "--logging_steps", 1, "--validation_prompts",
        "a handwritten zero", "a handwritten one", "--num_validation_inference_steps", 3, "--output_dir", out,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    losses = [float(line.split(",")[1]) for line in (out / "logs" / "metrics.csv").read_text().splitlines()[1:]]
    print(f"loss {np.mean(losses[:5]):.3f} in the first five steps, {np.mean(losses[-20:]):.3f} in the last twenty")
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
    with Image.open(max((out / "samples").glob("*.png"))) as grid:
        assert grid.size == (2 * 66 + 2, 66 + 2)
    for number in (0, 1):
        before, after = distance_from_class(base, number), distance_from_class(out, number)
        print(f"a handwritten {NUMBERS[number]}: {before:.3f} from its class before, {after:.3f} after")
        assert after < 0.85 * before


@pytest.mark.slow
def test_adapters_through_the_command_line(text_flags, stable_diffusion, tmp_path):
    out = tmp_path / "run"
    flags = ["--rank", 2, "--max_train_steps", 3, "--output_dir", out]
    result = run_program("train_text_to_image", *text_flags, *flags)
    assert result.returncode == 0, result.stderr
    assert "LoRA adapters of rank 2" in result.stderr + result.stdout
    assert not (out / "unet").exists()
    names = load_file(out / lora.WEIGHTS_FILE)
    assert all(name.startswith("unet.") and ".lora." in name for name in names)
    result = run_program(
        "sample", "--model", stable_diffusion, "--lora", out, "--prompt", "a handwritten two", "--num_images", 1,
        "--num_inference_steps", 2, "--scheduler", "ddim", "--output_dir", tmp_path / "pictures",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "pictures" / "00000.png").exists()


def test_what_will_not_do_is_told_in_one_line(text_flags, stable_diffusion, tmp_path):
    other = tmp_path / "sd3"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    for flags, message in (
        (["--pretrained_model_name_or_path", other], "is a StableDiffusion3Pipeline, which is not supported"),
        (["--resolution", 18], "need a multiple of 4, for example 16 or 20"),
        (["--caption_column", "image"], "--caption_column image: holds"),
    ):
        result = run_program("train_text_to_image", *text_flags, *flags, "--output_dir", tmp_path / "out")
        assert result.returncode in (1, 2) and message in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert not (tmp_path / "out").exists()


def test_settings_that_contradict(config):
    for change, message in (
        ({"pretrained_model_name_or_path": None}, "--pretrained_model_name_or_path: give"),
        ({"cache_latents": True, "center_crop": False}, "--cache_latents: random crops cannot be kept"),
        ({"use_8bit_adam": True}, "--use_8bit_adam: MindSpore has no 8-bit Adam"),
        ({"lora_alpha": 4.0}, "--lora_alpha: has a meaning with --rank only"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config, **change).check()


# --- Stable Diffusion XL


def test_xl_is_told_the_sizes_of_its_images(graph_mode, stable_diffusion_xl, tmp_path):
    """Height and width as stored (turned as EXIF says), top and left of the crop, and the size that is wanted."""
    folder = tmp_path / "images"
    folder.mkdir()
    wide = Image.fromarray(np.arange(40 * 20, dtype=np.int32).reshape(20, 40).astype(np.uint8)).convert("RGB")
    wide.save(folder / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    wide.save(folder / "1.jpg", exif=exif)
    config = TextToImageXLConfig(
        pretrained_model_name_or_path=str(stable_diffusion_xl), train_data_dir=str(folder), image_size=16,
        instance_prompt="a digit", mixed_precision="no", center_crop=True, cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    job = TextToImageXLJob.open(config, cpu_runtime())
    assert job.columns == ("noise", "timesteps", "images", "posterior_noise", "tokens", "tokens_2", "sizes")
    batch = batch_of(job, [0, 1])
    by_height = sorted(batch["sizes"].tolist())
    assert by_height == [[20, 40, 0, 8, 16, 16], [40, 20, 8, 0, 16, 16]]  # 16x32 and 32x16 before the crop
    moved = TextToImageXLJob.open(replace(config, center_crop=False), cpu_runtime())
    rngs = [random_stream(0, 2, place) for place in range(2)]
    sizes = moved.make_batch(np.arange(2), rngs)["sizes"]
    corners = [moved.sources[0].records.draw_augmentation(random_stream(0, 2, place)).crop_at for place in range(2)]
    for row, (across, down) in zip(sizes, corners, strict=True):
        is_wide = row[0] == 20
        assert row[2:4].tolist() == ([0, round(across * 16)] if is_wide else [round(down * 16), 0])
    cached = TextToImageXLJob.open(replace(config, cache_latents=True), cpu_runtime())
    cached.before_training(show_progress=False)
    assert {"latents", "embeddings", "pooled", "sizes"} <= set(cached.columns)
    losses = []
    for one in (job, cached):
        made = batch_of(one, [0, 1])
        cell = CalledByName(one.loss_cell(), one.columns).set_train(False)
        losses.append(cell(*[ms.Tensor(made[name]) for name in one.columns]).asnumpy())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_command_for_the_other_kind_of_pipeline_is_refused(config, stable_diffusion_xl):
    flag = "--pretrained_model_name_or_path"
    with pytest.raises(ConfigError, match=rf"{flag} .*: is a StableDiffusionXLPipeline, .*; train_text_to_image_sdxl"):
        make_job(replace(config, pretrained_model_name_or_path=str(stable_diffusion_xl)))
    settings = {item.name: getattr(config, item.name) for item in fields(config)}
    with pytest.raises(ConfigError, match=rf"{flag} .*: is a StableDiffusionPipeline, .*; train_text_to_image does"):
        TextToImageXLJob.open(TextToImageXLConfig(**settings), cpu_runtime())


def test_another_autoencoder(graph_mode, config, tmp_path):
    """Its weights replace the pipeline's; what is none is told in one line."""
    job = make_job(config)
    for parameter in job.base.vae.get_parameters():
        parameter.set_data(parameter * 2.0)
    job.base.vae.save_pretrained(str(tmp_path / "vae"))
    other = make_job(replace(config, pretrained_vae_model_name_or_path=str(tmp_path / "vae")))
    for ours, theirs in zip(job.base.vae.get_parameters(), other.base.vae.get_parameters(), strict=True):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())
    for folder, message in (("nowhere", "no such folder"), (tmp_path, "is no autoencoder; it has no config.json")):
        with pytest.raises(ConfigError, match=f"--pretrained_vae_model_name_or_path .*: {message}"):
            make_job(replace(config, pretrained_vae_model_name_or_path=str(folder)))

"""DreamBooth: images of the class, rows of two images, both networks, and what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime, run_program
from PIL import Image
from safetensors.numpy import load_file
from test_checkpoint import assert_same_end

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.data.columns import CalledByName
from mindone_ddpm.jobs.dreambooth.class_images import missing_numbers
from mindone_ddpm.jobs.dreambooth.config import DreamBoothConfig
from mindone_ddpm.jobs.dreambooth.job import DreamBoothJob
from mindone_ddpm.models import lora

SUBJECT, CLASS = "a picture of a zzz", "a picture of a digit"


def write_images(folder: Path, number: int, value: int) -> Path:
    folder.mkdir(parents=True)
    for place in range(number):
        Image.fromarray(np.full((16, 16, 3), value + place, np.uint8)).save(folder / f"{place}.png")
    return folder


@pytest.fixture
def config(stable_diffusion, tmp_path) -> DreamBoothConfig:
    return DreamBoothConfig(
        pretrained_model_name_or_path=str(stable_diffusion),
        train_data_dir=str(write_images(tmp_path / "subject", 2, 50)),
        class_data_dir=str(write_images(tmp_path / "class", 5, 200)),
        instance_prompt=SUBJECT,
        class_prompt=CLASS,
        with_prior_preservation=True,
        num_class_images=5,
        image_size=16,
        center_crop=True,
        mixed_precision="no",
        cache_dir=str(tmp_path / "cache"),
    )


def make_job(config):
    return DreamBoothJob.open(config, cpu_runtime())


def batch_of(job, indices):
    return job.make_batch(np.asarray(indices), [random_stream(0, 2, place) for place in range(len(indices))])


def loss_of(job, batch):
    cell = CalledByName(job.loss_cell(), job.columns).set_train(False)
    return cell(*[ms.Tensor(batch[name]) for name in job.columns]).asnumpy()


def summed_loss(job):
    cell = CalledByName(job.loss_cell(), job.columns).set_train(False)
    return lambda *values: cell(*values).sum()


# --- settings


def test_defaults_are_those_of_the_published_scripts():
    whole, adapters = DreamBoothConfig(), DreamBoothConfig(rank=4)
    assert (whole.learning_rate, adapters.learning_rate) == (5e-6, 5e-4)
    assert DreamBoothConfig(rank=4, learning_rate=1e-3).learning_rate == 1e-3
    assert replace(adapters, seed=1).learning_rate == 5e-4
    assert DreamBoothConfig(offset_noise=True).noise_offset == 0.1


def test_settings_that_contradict(config, tmp_path):
    for change, message in (
        ({"instance_prompt": None}, "--instance_prompt: give the text for the subject"),
        ({"class_prompt": None}, "--with_prior_preservation: needs --class_prompt"),
        ({"class_data_dir": None}, "--with_prior_preservation: needs --class_data_dir"),
        ({"class_data_dir": config.train_data_dir}, "one is in the other"),
        ({"class_data_dir": f"{config.train_data_dir}/class"}, "one is in the other"),
        ({"output_dir": f"{config.class_data_dir}/out"}, "would become images of the class"),
        ({"streaming": True}, "--streaming: a few images"),
        ({"snapshot_steps": 2, "rank": 4}, "--snapshot_steps: snapshots are of a whole UNet alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config, **change).check()
    replace(config, with_prior_preservation=False, class_prompt=None).check()  # as the published scripts


# --- images of the class


def test_the_images_that_are_missing_are_counted(tmp_path):
    folder = tmp_path / "class"
    assert missing_numbers(folder, 3) == [0, 1, 2]
    write_images(folder, 2, 0)  # the user's own
    assert missing_numbers(folder, 4) == [0, 1]
    (folder / "class-00001.png").touch()
    assert missing_numbers(folder, 4) == [0] and missing_numbers(folder, 5) == [0, 2]
    assert missing_numbers(folder, 2) == []


# --- rows


def test_a_row_has_an_image_of_the_subject_and_one_of_the_class(graph_mode, config):
    job = make_job(config)
    assert [len(one) for one in job.datasets] == [5, 2]  # an epoch is as long as the longer one
    batch = batch_of(job, [0, 3, 4])
    assert batch["images"].shape == (6, 3, 16, 16) and batch["noise"].shape == (6, 4, 8, 8)
    values = np.round((batch["images"][:, 0, 0, 0] + 1) * 127.5).astype(int)
    assert values.tolist() == [50, 51, 50, 200, 203, 204]
    texts = [job.base.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in batch["tokens"]]
    assert texts == [SUBJECT] * 3 + [CLASS] * 3
    assert len(np.unique(batch["noise"][:, 0, 0, 0])) == 6


def test_the_loss_of_a_row_is_the_sum_of_both(graph_mode, config):
    job = make_job(replace(config, prior_loss_weight=0.25))
    batch = batch_of(job, [0, 3])
    found = loss_of(job, batch)
    alone = make_job(replace(config, with_prior_preservation=False))
    each = loss_of(alone, {name: batch[name] for name in alone.columns})
    assert found.shape == (2,) and each.shape == (4,)
    np.testing.assert_allclose(found, each[:2] + 0.25 * each[2:], rtol=1e-5)


@pytest.mark.parametrize("trains", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_caches_give_what_the_networks_give(graph_mode, config, trains):
    settings = {"random_flip": True, "rank": 2, "train_text_encoder": trains}
    plain = make_job(replace(config, **settings))
    cached = make_job(replace(config, cache_latents=True, **settings))
    cached.before_training(show_progress=False)
    assert ("tokens" in cached.columns) == trains
    losses = [loss_of(job, batch_of(job, [0, 3, 4])) for job in (plain, cached)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


# --- both networks


def test_the_gradient_reaches_the_text_encoder(graph_mode, config):
    for settings in ({"train_text_encoder": True}, {"train_text_encoder": True, "rank": 2}):
        job = make_job(replace(config, **settings))
        names = [name for name in job.trainable() if name.startswith("text_encoder.")]
        assert names and set(job.weights()) == {"unet", "text_encoder"}
        stored = {id(one) for network in job.weights().values() for _, one in network.parameters()}
        assert {id(one) for one in job.trainable().values()} <= stored
        batch = batch_of(job, [0, 3])
        parameters = ms.ParameterTuple([job.trainable()[name] for name in names])
        gradients = ms.grad(summed_loss(job), None, parameters)(*[ms.Tensor(batch[name]) for name in job.columns])
        moved = {name for name, one in zip(names, gradients, strict=True) if np.abs(one.asnumpy()).max() > 0}
        # B is zero at first, so that the gradient of A is.
        expected = {name for name in names if not name.endswith("lora_down")}
        assert moved == expected, expected ^ moved


def test_adapters_of_both_networks_are_merged_with_their_weights(graph_mode, config, tmp_path):
    job = make_job(replace(config, rank=2, train_text_encoder=True, lora_alpha=4.0))
    generator = np.random.default_rng(0)
    for network in (job.unet, job.base.text_encoder):
        for name, parameter in lora.named_adapters(network):
            if name.endswith("lora_up"):
                parameter.set_data(ms.Tensor(0.1 * generator.standard_normal(parameter.shape), ms.float32))
    tokens = ms.Tensor(batch_of(job, [0])["tokens"])
    job.save(tmp_path / "adapters")
    names = set(load_file(tmp_path / "adapters" / lora.WEIGHTS_FILE))
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    assert {f"{layer}.up.weight", f"{layer}.down.weight"} <= names
    answers = {}
    for weights in (["1"], ["0.25", "0.75"], ["-2", "2"]):
        base = make_job(replace(config, with_prior_preservation=False)).base
        before = base.text_encoder(tokens)[0].asnumpy()
        lora.merge_adapters(base, [f"{tmp_path / 'adapters'}:{weight}" for weight in weights])
        answers[len(answers)] = base.text_encoder(tokens)[0].asnumpy()
    expected = job.base.text_encoder(tokens)[0].asnumpy()
    np.testing.assert_allclose(answers[0], expected, atol=2e-5)
    np.testing.assert_allclose(answers[1], expected, atol=2e-5)
    np.testing.assert_allclose(answers[2], before, atol=2e-5)
    assert np.abs(expected - before).max() > 1e-2


# --- the whole, through the command line


def test_through_the_command_line(config, tmp_path):
    """Images of the class are made first; killed, the next start makes those that are missing, and no others."""
    folder = tmp_path / "made"
    flags = [
        *("train_dreambooth", "--pretrained_model_name_or_path", config.pretrained_model_name_or_path),
        *("--instance_data_dir", config.train_data_dir, "--instance_prompt", SUBJECT, "--resolution", 16),
        *("--with_prior_preservation", "--class_data_dir", folder, "--class_prompt", CLASS, "--num_class_images", 3),
        *("--sample_batch_size", 2, "--train_batch_size", 2, "--max_train_steps", 4, "--lr_warmup_steps", 0),
        *("--rank", 2, "--train_text_encoder", "--checkpointing_steps", 2, "--report_to", "csv", "--logging_steps", 1),
    ]
    planned = run_program(*flags, "--output_dir", tmp_path / "plan", "--dry_run")
    assert planned.returncode == 0, planned.stderr
    assert f"3 images at 16x16, '{CLASS}' (3 are made first)" in planned.stdout
    assert not folder.exists() and not (tmp_path / "plan").exists()
    whole = tmp_path / "whole"
    result = run_program(*flags, "--output_dir", whole, "--validation_prompt", SUBJECT, "--validation_steps", 4,
                         "--num_validation_images", 2, "--num_validation_inference_steps", 2)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == [f"class-0000{number}.png" for number in range(3)]
    assert [path.name for path in (whole / "samples").iterdir()] == ["step-000004.png"]
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "class-00001.png").unlink()
    again = tmp_path / "again"
    result = run_program(*flags, "--output_dir", again, "--resume_from_checkpoint", whole / "checkpoint-2")
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    assert_same_end(again, whole, 4, not_logged=2)

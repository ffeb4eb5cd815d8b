"""Textual inversion: new rows of the text encoder, what trains, what is saved, how it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime, run_program
from mindspore import nn, ops
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_dreambooth import summed_loss

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.jobs.textual_inversion.config import TextualInversionConfig
from mindone_ddpm.jobs.textual_inversion.job import TEMPLATES, TextualInversionJob
from mindone_ddpm.models import new_tokens
from mindone_ddpm.models.pipelines import load_text_pipeline

WORD = "<thing>"


@pytest.fixture
def config(stable_diffusion, tmp_path) -> TextualInversionConfig:
    folder = tmp_path / "subject"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.full((16, 16, 3), 50 + number, np.uint8)).save(folder / f"{number}.png")
    return TextualInversionConfig(
        pretrained_model_name_or_path=str(stable_diffusion),
        train_data_dir=str(folder),
        placeholder_token=WORD,
        initializer_token="digit",
        num_vectors=2,
        repeats=3,
        image_size=16,
        mixed_precision="no",
    )


def make_job(config):
    return TextualInversionJob.open(config, cpu_runtime())


def test_new_rows_beside_a_table(graph_mode):
    """Values and gradients against NumPy; ids between the tokenizer's last and the table's end are new ones."""
    generator = np.random.default_rng(0)
    table, rows = generator.standard_normal((7, 3)).astype(np.float32), generator.standard_normal((2, 3))
    embedding = new_tokens.ExtendedEmbedding(ms.Parameter(ms.Tensor(table)), rows.astype(np.float32), first_id=6)
    ids = np.array([[0, 6, 7], [7, 7, 5]], np.int64)
    whole = np.concatenate([table[:6], rows]).astype(np.float32)
    np.testing.assert_array_equal(embedding(ms.Tensor(ids)).asnumpy(), whole[ids])
    weights = generator.standard_normal((2, 3, 3)).astype(np.float32)

    class Sum(nn.Cell):
        def __init__(self):
            super().__init__()
            self.embedding = embedding

        def construct(self, values):
            return (self.embedding(values) * ms.Tensor(weights)).sum()

    gradient = ops.grad(Sum(), None, ms.ParameterTuple([embedding.new_rows]))(ms.Tensor(ids))[0].asnumpy()
    expected = np.stack([weights[ids == number].sum(0) for number in (6, 7)])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert embedding.trainable_params() == [embedding.new_rows]


def test_only_the_new_rows_train_from_the_initializer(graph_mode, config):
    job = make_job(config)
    (rows,) = job.trainable().values()
    others = [*job.unet.get_parameters(), *job.base.vae.get_parameters(), *job.base.text_encoder.get_parameters()]
    assert [one.name for one in others if one.requires_grad] == [rows.name]
    tokenizer = job.base.tokenizer
    (initializer,) = tokenizer("digit", add_special_tokens=False).input_ids
    table = job.base.text_encoder.get_input_embeddings().embedding_table.asnumpy()
    np.testing.assert_array_equal(rows.asnumpy(), np.tile(table[initializer], (2, 1)))
    assert tokenizer.convert_tokens_to_ids([WORD, f"{WORD}_1"]) == [len(table), len(table) + 1]


def test_an_epoch_goes_through_the_images_several_times_with_many_captions(graph_mode, config):
    job = make_job(config)
    assert len(job.datasets[0]) == 6
    order = job.datasets[0].order(0, 0)
    assert sorted(order) == list(range(6))
    batch = job.make_batch(order, [random_stream(0, 2, place) for place in range(6)])
    brightness = np.round((batch["images"][:, 0, 0, 0] + 1) * 127.5).astype(int)
    assert brightness.tolist() == [50 + index % 2 for index in order]
    ids = set(job.base.tokenizer.convert_tokens_to_ids([WORD, f"{WORD}_1"]))
    assert all(ids <= set(tokens) for tokens in batch["tokens"])
    assert len({tuple(tokens) for tokens in batch["tokens"]}) > 1


def test_every_caption_holds_the_word_once():
    for templates in TEMPLATES.values():
        assert len(set(templates)) == len(templates) > 10
        assert all(template.count("{}") == 1 for template in templates)


def test_what_will_not_do_is_told(graph_mode, config):
    for change, message in (
        ({"placeholder_token": "digit"}, "--placeholder_token digit: digit"),
        ({"initializer_token": "digitally"}, r"--initializer_token digitally: is \d tokens of this pipeline"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_job(replace(config, **change))
    for change, message in (
        ({"placeholder_token": None}, "--placeholder_token: give a word"),
        ({"initializer_token": "two words"}, "--initializer_token 'two words': must be one word"),
        ({"streaming": True}, "--streaming: a few images"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config, **change).check()


@pytest.fixture
def learned(tmp_path) -> Path:
    folder = tmp_path / "learned"
    new_tokens.save(WORD, np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32), folder)
    return folder


def test_learned_words_are_put_into_a_pipeline(graph_mode, stable_diffusion, learned, tmp_path):
    """One after the other, like all at once; joined with the table and saved, they are still the same."""
    pipeline = load_text_pipeline(str(stable_diffusion))
    save_file({"<other>": np.full(32, 0.5, np.float32)}, tmp_path / "other.safetensors")  # a single vector, flat
    sources = [str(learned), str(tmp_path / "other.safetensors")]
    assert new_tokens.load_into(pipeline, sources) == [WORD, "<other>"]
    rows = load_file(learned / new_tokens.WEIGHTS_FILE)[WORD]
    ids = pipeline.tokenizer(f"{WORD} {WORD}_1 <other>", add_special_tokens=False).input_ids
    assert len(ids) == 3
    embed = pipeline.text_encoder.get_input_embeddings()
    np.testing.assert_array_equal(embed(ms.Tensor(ids)).asnumpy(), [*rows, np.full(32, 0.5, np.float32)])
    tokens = ms.Tensor([[*ids, 5, 6]], ms.int32)
    before = pipeline.text_encoder(tokens)[0].asnumpy()
    new_tokens.join_rows(pipeline)
    np.testing.assert_allclose(pipeline.text_encoder(tokens)[0].asnumpy(), before, atol=1e-6)


def test_embeddings_that_fit_nothing_are_refused(graph_mode, stable_diffusion, learned, tmp_path):
    pipeline = load_text_pipeline(str(stable_diffusion))
    path = tmp_path / "odd.safetensors"
    for arrays, message in (
        ({"<a>": np.zeros((1, 8), np.float32)}, "its vectors have 8 numbers, those of this text encoder 32"),
        ({"<a>": np.zeros(32, np.float32), "<b>": np.zeros(32, np.float32)}, "holds 2 arrays"),
        ({" ": np.zeros(32, np.float32)}, "names no token, or has no vectors"),
        ({"<a>": np.zeros((0, 32), np.float32)}, "names no token, or has no vectors"),
        ({"<a>": np.zeros((2, 2, 32), np.float32)}, "it is for another model"),
        ({"digit</w>": np.zeros(32, np.float32)}, "digit</w> is a token of this pipeline already"),
    ):
        save_file(arrays, path)
        with pytest.raises(ConfigError, match=message):
            new_tokens.load_into(pipeline, [str(path)])
    path.write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"--embedding .*odd\.safetensors: cannot be read"):
        new_tokens.load_into(pipeline, [str(path)])
    new_tokens.load_into(pipeline, [str(learned)])
    with pytest.raises(ConfigError, match="is a token of this pipeline already"):
        new_tokens.load_into(pipeline, [str(learned)])


def test_the_gradient_reaches_the_rows(graph_mode, config):
    job = make_job(config)
    batch = job.make_batch(np.arange(2), [random_stream(0, 2, place) for place in range(2)])
    inputs = [ms.Tensor(batch[name]) for name in job.columns]
    (rows,) = job.trainable().values()
    gradient = ms.grad(summed_loss(job), None, ms.ParameterTuple([rows]))(*inputs)[0].asnumpy()
    assert (np.abs(gradient).max(1) > 0).all()


def test_through_the_command_line(config, tmp_path):
    flags = [
        *("textual_inversion", "--pretrained_model_name_or_path", config.pretrained_model_name_or_path),
        *("--train_data_dir", config.train_data_dir, "--resolution", 16, "--repeats", 4, "--train_batch_size", 2),
        *("--placeholder_token", WORD, "--initializer_token", "digit", "--learning_rate", 1e-2),
        *("--lr_warmup_steps", 0, "--report_to", "csv"),
    ]
    whole = tmp_path / "whole"
    result = run_program(*flags, "--max_train_steps", 2, "--output_dir", whole)
    assert result.returncode == 0, result.stderr
    assert "one vector of the new word <thing>, from 'digit', 32 parameters train" in result.stderr + result.stdout
    (rows,) = load_file(whole / new_tokens.WEIGHTS_FILE).values()
    assert rows.shape == (1, 32) and "load_textual_inversion" in (whole / "README.md").read_text()

    sample = ["sample", "--prompt", f"a {WORD}", "--num_images", 1, "--num_inference_steps", 2, "--output_dir"]
    fused = tmp_path / "fused"
    base = config.pretrained_model_name_or_path
    assert run_program(*sample, tmp_path / "a", "--model", base, "--embedding", whole).returncode == 0
    result = run_program("fuse", "--model", base, "--embedding", whole, "--output_dir", fused)
    assert result.returncode == 0 and result.stdout == f"the pipeline is in {fused}\n", result.stderr
    assert run_program(*sample, tmp_path / "b", "--model", fused).returncode == 0
    images = [np.asarray(Image.open(tmp_path / name / "00000.png")).astype(int) for name in "ab"]
    assert np.abs(images[0] - images[1]).max() <= 1
    result = run_program("fuse", "--model", base, "--embedding", whole, "--output_dir", fused)
    assert result.returncode == 2 and "is there already; give a new folder" in result.stderr

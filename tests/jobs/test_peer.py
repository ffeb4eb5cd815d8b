"""Interchange with PyTorch's diffusers, both ways, run for real in an environment of its own (scripts/peer.sh)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, cpu_runtime, peer_python, run_program
from PIL import Image

from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.data.columns import CalledByName
from mindone_ddpm.jobs.dreambooth.config import DreamBoothConfig
from mindone_ddpm.jobs.dreambooth.job import DreamBoothJob
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig, TextToImageXLConfig
from mindone_ddpm.jobs.text_to_image.job import FineTuneJob, TextToImageJob, TextToImageXLJob
from mindone_ddpm.jobs.text_to_image.latents import FrozenLatents, TextEmbeddings
from mindone_ddpm.jobs.textual_inversion.config import TextualInversionConfig
from mindone_ddpm.jobs.textual_inversion.job import TextualInversionJob
from mindone_ddpm.models import lora, new_tokens, pipelines, schedulers

pytestmark = pytest.mark.peer
STEPS, FLOW_STEPS = 50, 25


def run_peer(script: str, *arguments: object) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(peer_python()), str(ROOT / "tests" / "programs" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def compare(folder: Path) -> tuple[float, float]:
    """Largest difference between our answer and diffusers' for the pipeline in a folder: forward, trajectory."""
    theirs = np.load(folder / "answer.npz")
    pipeline = pipelines.load_pipeline(str(folder))
    unet = pipeline.unet.set_train(False)
    labels = ms.Tensor([0, 1], ms.int32) if unet.config.num_class_embeds else None
    output = unet(ms.Tensor(theirs["noise"]), ms.Tensor([10, 700], ms.int32), labels)[0].asnumpy()
    is_flow = schedulers.is_flow(pipeline.scheduler)
    scheduler = schedulers.make_sampler("euler" if is_flow else "ddim", pipeline.scheduler)
    scheduler.set_timesteps(FLOW_STEPS if is_flow else STEPS)
    images = ms.Tensor(theirs["noise"])
    for timestep in scheduler.timesteps.asnumpy().tolist():
        answer = unet(images, ms.Tensor([timestep] * 2, ms.float32 if is_flow else ms.int32), labels)[0]
        images = scheduler.step(answer, ms.Tensor(timestep), images)[0]
    if is_flow and labels is None:  # the pipeline's own loop, in mindone as in diffusers
        pipeline.set_progress_bar_config(disable=True)
        assert np.isfinite(pipeline(num_inference_steps=2, output_type="np")[0]).all()
    differences = np.abs(output - theirs["output"]).max(), np.abs(images.asnumpy() - theirs["trajectory"]).max()
    print(f"{folder.name}: forward {differences[0]:.1e}, trajectory {differences[1]:.1e}")
    return differences


@pytest.mark.parametrize("kind", [pytest.param("ddpm", marks=pytest.mark.slow), "ddim"])
def test_a_pipeline_of_diffusers_samples_here_and_goes_on_here(tmp_path, graph_mode, kind):
    folder = tmp_path / kind
    run_peer("peer_reference.py", "make", folder, kind)
    forward, trajectory = compare(folder)
    assert forward < 1e-4 and trajectory < 1e-3

    tuned = tmp_path / "tuned"
    result = run_program(
        *("train", "--dataset_name", "digits", "--pretrained_model_name_or_path", folder, "--image_size", 16),
        *("--max_train_steps", 3, "--train_batch_size", 4, "--save_image_epochs", 0, "--output_dir", tuned),
        *("--lr_scheduler", "constant", "--learning_rate", 1e-4, "--max_grad_norm", 0),
    )
    assert result.returncode == 0, result.stderr
    before, after = (pipelines.load_pipeline(str(path)) for path in (folder, tuned))
    assert after.scheduler.config.prediction_type == before.scheduler.config.prediction_type
    assert after.scheduler.config.beta_schedule == before.scheduler.config.beta_schedule
    moved = np.abs(before.unet.conv_in.weight.asnumpy() - after.unet.conv_in.weight.asnumpy()).max()
    assert 1e-5 < moved < 1e-3  # it went on from where it was


OURS = {
    "ddpm": [],
    "classes": ["--class_conditional"],
    "flow": ["--objective", "flow_matching", "--flow_shift", "2", "--timestep_sampling", "logit_normal"],
    "flow with classes": ["--objective", "flow_matching", "--class_conditional"],
    "edm": ["--prediction_type", "v_prediction", "--timestep_sampling", "lognormal", "--data_std", "0.5"],
}


SLOW = ("ddpm", "classes", "flow with classes", "edm")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in OURS])
def test_a_pipeline_of_ours_samples_in_diffusers(tmp_path, graph_mode, digits_flags, kind):
    folder = tmp_path / "ours"
    more = OURS[kind]
    result = run_program("train", *digits_flags, "--max_train_steps", 5, "--output_dir", folder, *more)
    assert result.returncode == 0, result.stderr
    run_peer("peer_reference.py", "answer", folder)
    forward, trajectory = compare(folder)
    assert forward < 1e-4 and trajectory < 1e-3


@pytest.mark.parametrize("rank", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_the_loss_of_a_captioned_batch_is_that_of_diffusers(
    graph_mode, stable_diffusion, captioned_digits, tmp_path, rank
):
    """Autoencoder, text encoder, noise, UNet and loss; with adapters as `load_lora_weights` reads them."""
    config = TextToImageConfig(
        pretrained_model_name_or_path=str(stable_diffusion),
        dataset_name=str(captioned_digits),
        image_size=16,
        center_crop=True,
        mixed_precision="no",
        rank=rank,
        lora_alpha=None if rank is None else 8.0,
    )
    job = TextToImageJob.open(config, cpu_runtime())
    generator = np.random.default_rng(0)
    for name, parameter in lora.named_adapters(job.unet):
        if name.endswith("lora_up"):
            parameter.set_data(ms.Tensor(0.1 * generator.standard_normal(parameter.shape), ms.float32))
    made = job.make_batch(np.arange(8), [random_stream(0, 2, place) for place in range(8)])
    np.savez(tmp_path / "batch.npz", **made)
    batch = {name: ms.Tensor(array) for name, array in made.items()}
    loss = CalledByName(job.loss_cell(), job.columns).set_train(False)
    ours = loss(*batch.values()).asnumpy()
    adapters = []
    if rank is not None:
        job.save(tmp_path / "adapters")
        adapters = [tmp_path / "adapters"]
    run_peer("peer_text_to_image.py", stable_diffusion, tmp_path / "batch.npz", *adapters)
    answer = np.load(tmp_path / "answer.npz")
    latents = FrozenLatents(job.base.vae)(batch["images"], batch["posterior_noise"])
    embeddings, _ = TextEmbeddings(job.base, trains=False)(batch["tokens"])
    np.testing.assert_allclose(latents.asnumpy(), answer["latents"], atol=1e-4)
    np.testing.assert_allclose(embeddings.asnumpy(), answer["embeddings"], atol=1e-4)
    theirs = answer["loss"]
    print(f"loss of a captioned batch, rank {rank}: largest difference {np.abs(ours - theirs).max():.1e}")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours.std() > 0.01


def instance_job(kind: str, pipeline: Path, subject: Path) -> FineTuneJob:
    """A job on a subject's images whose trained weights are no longer those it began with."""
    common = {
        "pretrained_model_name_or_path": str(pipeline),
        "train_data_dir": str(subject),
        "image_size": 16,
        "center_crop": True,
        "mixed_precision": "no",
    }
    job: FineTuneJob
    if kind.startswith("xl"):
        more = {"instance_prompt": "a picture of a zzz", "train_text_encoder": True, "center_crop": False}
        wide = {"rank": 4, "image_size": 32, "aspect_buckets": True, "bucket_step": 8}
        settings = {**common, **more, **(wide if kind == "xl lora wide" else {})}
        job = TextToImageXLJob.open(TextToImageXLConfig(**settings), cpu_runtime())
    elif kind == "word":
        word = {"placeholder_token": "<three>", "initializer_token": "digit", "num_vectors": 2}
        job = TextualInversionJob.open(TextualInversionConfig(**common, **word), cpu_runtime())
    else:
        subject_of = {"instance_prompt": "a picture of a zzz", "train_text_encoder": True}
        rank = 4 if kind == "lora" else None
        job = DreamBoothJob.open(DreamBoothConfig(**common, **subject_of, rank=rank), cpu_runtime())
    generator = np.random.default_rng(0)
    for name, parameter in job.trainable().items():
        if not name.endswith("lora_down"):
            scale = 0.1 if "lora" in kind else 0.1 * float(np.abs(parameter.asnumpy()).mean())
            noise = scale * generator.standard_normal(parameter.shape)
            parameter.set_data(ms.Tensor(parameter.asnumpy() + noise.astype(np.float32)))
    return job


@pytest.mark.parametrize("kind", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("whole", "lora", "xl")),
                                  "word", "xl lora wide"])  # fmt: skip
def test_a_subject_is_the_same_in_diffusers(
    graph_mode, stable_diffusion, stable_diffusion_xl, subject_images, tmp_path, kind
):
    """Loss of a batch, and the image of a prompt, with what a job saves as diffusers loads it."""
    base = stable_diffusion_xl if kind.startswith("xl") else stable_diffusion
    for number, path in enumerate(sorted(subject_images.glob("*.png"))):  # of sizes of their own, for XL
        with Image.open(path) as image:
            image.resize((16 + 3 * number + (20 if kind.endswith("wide") else 0), 20)).save(path)
    job = instance_job(kind, base, subject_images)
    made = job.make_batch(np.arange(4), [random_stream(0, 2, place) for place in range(4)])
    assert made["noise"].shape[2:] == ((12, 20) if kind.endswith("wide") else (8, 8))
    prompt = "a picture of a <three>" if kind == "word" else "a picture of a zzz"
    np.savez(tmp_path / "batch.npz", **made, prompt=prompt)
    batch = {name: ms.Tensor(array) for name, array in made.items()}
    ours = CalledByName(job.loss_cell(), job.columns).set_train(False)(*batch.values()).asnumpy()
    job.save(tmp_path / "saved")
    others = [tmp_path / "saved"] if kind in ("whole", "xl") else [base, tmp_path / "saved"]
    run_peer("peer_text_to_image.py", others[0], tmp_path / "batch.npz", *others[1:])
    answer = np.load(tmp_path / "answer.npz")
    print(f"{kind}: largest difference of a loss {np.abs(ours - answer['loss']).max():.1e}")
    np.testing.assert_allclose(ours, answer["loss"], atol=1e-4)

    pipeline = pipelines.load_text_pipeline(str(others[0]))
    if "lora" in kind:
        lora.merge_adapters(pipeline, [str(tmp_path / "saved")])
    elif kind == "word":
        new_tokens.load_into(pipeline, [str(tmp_path / "saved")])
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(prompt, num_inference_steps=4, guidance_scale=3.0, latents=batch["noise"][:1], output_type="np")[0]
    print(f"{kind}: largest difference of a pixel {np.abs(image - answer['image']).max():.1e}")
    np.testing.assert_allclose(image, answer["image"], atol=1e-3)


def test_pipelines_as_diffusers_saves_them_today(graph_mode, stable_diffusion, tmp_path):
    """Tokenizers of transformers 5, half precision, variants, weights in several files; and back."""
    run_peer("peer_save.py", stable_diffusion, tmp_path)
    assert not (tmp_path / "plain" / "tokenizer" / "vocab.json").exists()
    assert len(list((tmp_path / "parts" / "unet").glob("*.fp16-*.safetensors"))) > 1
    ours = pipelines.load_text_pipeline(str(stable_diffusion))
    for name, tolerance in (("plain", 0.0), ("parts", 1e-3)):
        theirs = pipelines.load_text_pipeline(str(tmp_path / name))
        for part in ("unet", "vae", "text_encoder"):
            expected = dict(getattr(ours, part).parameters_and_names())
            for key, parameter in getattr(theirs, part).parameters_and_names():
                assert parameter.dtype == ms.float32
                np.testing.assert_allclose(parameter.asnumpy(), expected[key].asnumpy(), atol=tolerance, err_msg=key)
        text = "a handwritten three"
        assert theirs.tokenizer(text).input_ids == ours.tokenizer(text).input_ids
    pipelines.save_text_pipeline(theirs, tmp_path / "back")
    assert run_peer("peer_save.py", tmp_path / "back").strip() == str(ours.tokenizer(text).input_ids)

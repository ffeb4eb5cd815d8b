"""Seeded sampling: from a UNet and a scheduler to pictures, and pictures to files and grids.

Picture ``i`` starts from noise, and is stepped with noise, drawn from a generator keyed by (seed, i): it does not
depend on how many are made, in batches of what size, or after what training.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import check_writable
from mindone_ddpm.data.randomness import IMAGE_STREAM, batch_places, random_stream
from mindone_ddpm.models import pipelines, schedulers
from mindone_ddpm.models.unet import class_names
from mindone_ddpm.runtime.start import start
from mindone_ddpm.sampling.config import ImagesBase, SampleConfig, SamplingBase
from mindone_ddpm.sampling.grids import Trajectory, to_values, write_images


def sample_rngs(seed: int, sample_ids: Sequence[int]) -> list[np.random.Generator]:
    """The generator of each picture of a seed's endless row."""
    return [random_stream(seed, IMAGE_STREAM, sample_id) for sample_id in sample_ids]


def generate(
    unet: Any,
    scheduler: Any,
    *,
    sample_ids: Sequence[int],
    batch_size: int,
    num_inference_steps: int,
    seed: int,
    labels: Sequence[int] | None = None,
    guidance_scale: float = 1.0,
    eta: float | None = None,
    on_step: Callable[[ms.Tensor], object] = lambda images: None,
) -> np.ndarray:
    """Sample as ``DDPMPipeline`` does, one generator a picture.

    Args:
        sample_ids: which pictures of the seed's endless row to make.
        unet: a UNet2DModel; called with a batch of always the same size, so that it is compiled once.
        scheduler: anything with ``set_timesteps``, ``timesteps`` and ``step``.
        labels: of a class-conditional model, the class of each of ``numbers``.
        guidance_scale: see :func:`make_denoiser`.
        eta: of a DDIMScheduler.
        on_step: called with the batch's noisy images, float32 (batch, channels, size, size), after each step.

    Returns:
        Values from 0 to 1, float32 of shape (len(sample_ids), size, size, channels).
    """
    batch_size = min(batch_size, len(sample_ids))
    pictures = []
    with evaluating(unet):
        for first in range(0, len(sample_ids), batch_size):
            places = batch_places(first, batch_size, len(sample_ids))
            generators = sample_rngs(seed, [sample_ids[place] for place in places])
            denoise = make_denoiser(unet, None if labels is None else [labels[p] for p in places], guidance_scale)
            scheduler.set_timesteps(num_inference_steps)
            images = initial_noise(unet, scheduler, generators)
            timesteps = scheduler.timesteps.asnumpy().tolist()
            images = denoise_steps(denoise, scheduler, images, timesteps, generators, eta, on_step)
            pictures.append(to_values(images)[: len(sample_ids) - first])
    return np.concatenate(pictures)


@contextlib.contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """The network is in evaluation mode inside, and afterwards in the mode that it was in."""
    training = network.training
    network.set_train(False)
    try:
        yield
    finally:
        network.set_train(training)


def image_shape(unet: Any) -> tuple[int, int, int]:
    """(channels, height, width) of what a UNet makes."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


def initial_noise(unet: Any, scheduler: Any, generators: list[np.random.Generator]) -> ms.Tensor:
    noise = np.stack([generator.standard_normal(image_shape(unet)) for generator in generators])
    return ms.Tensor(noise * float(scheduler.init_noise_sigma), ms.float32)


def make_denoiser(
    unet: Any, labels: Sequence[int] | None, guidance_scale: float = 1.0
) -> Callable[[ms.Tensor, ms.Tensor], ms.Tensor]:
    """What predicts for a batch: ``f(images, timesteps)``.

    With classes it is classifier-free guidance (Ho & Salimans 2022, equation 6, with w = ``guidance_scale`` - 1):
    ``f_none + guidance_scale (f_class - f_none)``; at 1 the model as it was trained, at 0 without any class.
    """
    if labels is None:
        return lambda images, timesteps: unet(images, timesteps)[0]
    classes = ms.Tensor(np.asarray(labels), ms.int32)
    nothing = ms.Tensor(np.full(len(labels), unet.config.num_class_embeds - 1), ms.int32)
    if guidance_scale in (0.0, 1.0):
        used = classes if guidance_scale else nothing
        return lambda images, timesteps: unet(images, timesteps, used)[0]
    both = ops.cat([nothing, classes])

    def guided(images: ms.Tensor, timesteps: ms.Tensor) -> ms.Tensor:
        output = unet(ops.cat([images, images]), ops.cat([timesteps, timesteps]), both)[0]
        without, with_class = output[: len(labels)], output[len(labels) :]
        return without + guidance_scale * (with_class - without)

    return guided


def denoise_steps(
    denoise: Callable[[ms.Tensor, ms.Tensor], ms.Tensor],
    scheduler: Any,
    images: ms.Tensor,
    timesteps: Sequence[float],
    generators: list[np.random.Generator],
    eta: float | None = None,
    on_step: Callable[[ms.Tensor], object] = lambda images: None,
) -> ms.Tensor:
    """Take a batch through ``timesteps``, which are some of the scheduler's own, and return it."""
    known = inspect.signature(scheduler.step).parameters
    given: dict[str, Any] = {"generator": generators, "eta": eta}
    options = {name: value for name, value in given.items() if name in known and value is not None}
    for timestep in timesteps:
        now = ms.Tensor(timestep)
        model_input = scheduler.scale_model_input(images, now)
        # Some samplers step between whole timesteps.
        dtype = np.int32 if isinstance(timestep, int) else np.float32
        output = denoise(model_input, ms.Tensor(np.full(len(generators), timestep, dtype)))
        images = scheduler.step(output, now, images, **options)[0].astype(ms.float32)
        on_step(images)
    return images


def choose_labels(unet: Any, wanted: str | None, number: int) -> list[int] | None:
    """The class of each of ``number`` pictures: those wanted in turn, by name or number; all in turn by default.

    Raises:
        ConfigError: the model has no such class, or no classes.
    """
    names = class_names(unet)
    if not names:
        if wanted is not None:
            raise ConfigError(f"--class_label {wanted}: this model knows no classes")
        return None
    if wanted is None:
        return [place % len(names) for place in range(number)]
    chosen = []
    for label in wanted.split(","):
        if label.strip() in names:
            chosen.append(names.index(label.strip()))
        elif label.strip().isdigit() and int(label) < len(names):
            chosen.append(int(label))
        else:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ConfigError(f"--class_label {label}: the model's classes are {shown}, or 0 to {len(names) - 1}")
    return [chosen[place % len(chosen)] for place in range(number)]


def class_guidance(config: SamplingBase, labels: list[int] | None) -> float:
    """Raises ConfigError if a model without classes is to be guided."""
    if config.guidance_scale not in (None, 1) and labels is None:
        raise ConfigError(f"--guidance_scale {config.guidance_scale}: this model knows no classes to be guided by")
    return 1.0 if config.guidance_scale is None else config.guidance_scale


def check_output_folder(config: ImagesBase) -> Path:
    """Raises ConfigError if the folder for pictures will not do."""
    output_dir = Path(config.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output_dir {output_dir}: is a file; give a folder")
    check_writable(output_dir)
    if any(output_dir.glob("*.png")) and not config.overwrite_output_dir:
        raise ConfigError(
            f"--output_dir {output_dir}: already holds pictures; give another folder, or --overwrite_output_dir"
        )
    return output_dir


def open_model(config: ImagesBase) -> tuple[Path, Any]:
    """The folder for pictures, checked, and the model's pipeline, with MindSpore started.

    Raises:
        ConfigError: one of them will not do.
    """
    output_dir = check_output_folder(config)
    start(config.device, config.mode, config.seed)
    return output_dir, pipelines.load_pipeline(config.model)


def inference_steps(config: SamplingBase, sampler: str, scheduler: Any) -> int:
    """How many steps to take. Raises ConfigError if they are more than the noise levels."""
    noise_levels = scheduler.config.num_train_timesteps
    steps = config.num_inference_steps
    if steps is None:
        return noise_levels if sampler == "ddpm" else min(50, noise_levels)
    check_steps("--num_inference_steps", steps, scheduler)
    return steps


def check_steps(flag: str, steps: int, scheduler: Any) -> None:
    """Raises ConfigError if they are more than the noise levels."""
    noise_levels = scheduler.config.num_train_timesteps
    if steps > noise_levels:
        raise ConfigError(f"{flag} {steps}: the model has {noise_levels} noise levels; use at most that")


# Settings that only text-to-image models have.
TEXT_SETTINGS = ("prompt", "prompts_file", "negative_prompt", "height", "width", "lora")


def sample_values(pipeline: Any, config: SampleConfig) -> tuple[np.ndarray, Trajectory]:
    """Sample from an unconditional pipeline, with a progress bar.

    Returns:
        Values from 0 to 1, float32 of shape (num_images, height, width, channels), and how the first images were
        denoised.

    Raises:
        ConfigError: a setting does not fit the model.
    """
    for name in TEXT_SETTINGS:
        if getattr(config, name) is not None:
            raise ConfigError(f"--{name}: is for text-to-image models; {config.model} is an unconditional one")
    sampler = config.scheduler or "ddpm"
    scheduler = schedulers.make_sampler(sampler, pipeline.scheduler, config.clip_sample, config.timestep_spacing)
    steps = inference_steps(config, sampler, scheduler)
    labels = choose_labels(pipeline.unet, config.class_label, config.num_images)
    guidance_scale = class_guidance(config, labels)
    scheduler.set_timesteps(steps)
    num_steps = len(scheduler.timesteps)  # some samplers evaluate the model twice a step
    trajectory = Trajectory(num_steps)
    num_batches = math.ceil(config.num_images / config.batch_size)
    with tqdm(total=num_batches * num_steps, desc="sampling", unit="step", dynamic_ncols=True) as bar:

        def on_step(images: ms.Tensor) -> None:
            bar.update()
            if config.save_trajectory != "none":
                trajectory.add(images)

        values = generate(
            pipeline.unet,
            scheduler,
            sample_ids=range(config.num_images),
            batch_size=config.batch_size,
            num_inference_steps=steps,
            seed=config.seed,
            labels=labels,
            guidance_scale=guidance_scale,
            eta=config.eta,
            on_step=on_step,
        )
    return values, trajectory


def sample_to_folder(config: SampleConfig) -> Path:
    """Sample from a saved pipeline into numbered PNGs and a grid; returns the grid's path.

    Raises:
        ConfigError: the model, the settings or the output folder cannot be used; before anything is written.
    """
    config.check()
    output_dir, pipeline = open_model(config)
    values, trajectory = sample_values(pipeline, config)
    grid = write_images(values, output_dir, config.bit_depth)
    if config.save_trajectory != "none":
        trajectory.save(output_dir, config.save_trajectory)
    return grid

"""Sampling as settings say: the code that the sample command and ``mindone_ddpm.sample`` share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.models import pipelines, schedulers
from mindone_ddpm.sampling.config import SampleConfig, SamplingBase
from mindone_ddpm.sampling.generate import OnStep, choose_labels, generate
from mindone_ddpm.sampling.images import Trajectory
from mindone_ddpm.sampling.prompts import generate_from_prompts

if TYPE_CHECKING:
    from typing import TypeAlias

    from mindone.diffusers import DDPMPipeline, StableDiffusionPipeline

    Pipeline: TypeAlias = pipelines.Unconditional | DDPMPipeline | StableDiffusionPipeline

DEFAULT_STEPS = 50  # with all samplers but ddpm
DEFAULT_TEXT_GUIDANCE = 7.5
# Settings that only text-to-image models have, and those that only unconditional ones have, with their defaults.
TEXT_SETTINGS = ("prompt", "prompts_file", "negative_prompt", "height", "width", "lora", "embedding")
UNCONDITIONAL_SETTINGS = {"class_label": None, "save_trajectory": "none", "clip_sample": None}


def takes_prompts(pipeline: Pipeline) -> bool:
    return hasattr(pipeline, "text_encoder")


def check_kind(config: SampleConfig, is_text_to_image: bool) -> None:
    """Check what can be known from the kind of model alone.

    Raises:
        ConfigError: a setting is for models of the other kind, or a text-to-image model has no prompt.
    """
    if is_text_to_image:
        read_prompts(config)
        for name, default in UNCONDITIONAL_SETTINGS.items():
            if getattr(config, name) != default:
                raise ConfigError(f"--{name}: is for unconditional models; {config.model} makes images from text")
        return
    for name in TEXT_SETTINGS:
        if getattr(config, name) is not None:
            raise ConfigError(f"--{name}: is for text-to-image models; {config.model} is an unconditional one")


def sample_values(pipeline: Pipeline, config: SampleConfig) -> tuple[np.ndarray, Trajectory | None]:
    """Sample from a pipeline of either kind, with a progress bar.

    Args:
        config: checked by itself.

    Returns:
        Values from 0 to 1, float32 of shape (num_images, height, width, channels), and the denoising of the first
        images where ``save_trajectory`` asks for it.

    Raises:
        ConfigError: a setting does not fit the model.
    """
    check_kind(config, takes_prompts(pipeline))
    if takes_prompts(pipeline):
        return _sample_prompts(pipeline, config), None
    return _sample_unconditional(pipeline, config)


def _sample_unconditional(
    pipeline: pipelines.Unconditional | DDPMPipeline, config: SampleConfig
) -> tuple[np.ndarray, Trajectory | None]:
    sampler = config.scheduler or schedulers.FAST_SAMPLER
    scheduler = schedulers.make_sampler(sampler, pipeline.scheduler, config.clip_sample, config.timestep_spacing)
    default_steps = DEFAULT_STEPS if config.scheduler is not None else schedulers.FAST_STEPS
    steps = inference_steps(config, sampler, scheduler, default_steps)
    labels = choose_labels(pipeline.unet, config.class_label, config.num_images)
    guidance_scale = class_guidance(config, labels)

    def run(on_step: OnStep) -> np.ndarray:
        return generate(
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

    schedulers.set_timesteps(scheduler, steps)
    trajectory = None if config.save_trajectory == "none" else Trajectory(len(scheduler.timesteps))
    return _with_progress_bar(run, config, scheduler, None if trajectory is None else trajectory.add), trajectory


def _sample_prompts(pipeline: StableDiffusionPipeline, config: SampleConfig) -> np.ndarray:
    prompts = read_prompts(config)
    check_image_size(config, pipeline)
    saved_scheduler = pipeline.scheduler
    sampler = config.scheduler or schedulers.sampler_name(saved_scheduler)
    if config.scheduler is not None or config.timestep_spacing is not None:
        pipeline.scheduler = schedulers.make_sampler(sampler, saved_scheduler, None, config.timestep_spacing)

    def run(on_step: OnStep) -> np.ndarray:
        return generate_from_prompts(
            pipeline,
            [prompts[sample_id % len(prompts)] for sample_id in range(config.num_images)],
            sample_ids=range(config.num_images),
            batch_size=config.batch_size,
            num_inference_steps=steps,
            seed=config.seed,
            guidance_scale=DEFAULT_TEXT_GUIDANCE if config.guidance_scale is None else config.guidance_scale,
            negative_prompt=config.negative_prompt,
            height=config.height,
            width=config.width,
            eta=config.eta or 0.0,
            on_step=on_step,
        )

    try:
        steps = inference_steps(config, sampler, pipeline.scheduler)
        schedulers.set_timesteps(pipeline.scheduler, steps)
        return _with_progress_bar(run, config, pipeline.scheduler)
    finally:
        pipeline.scheduler = saved_scheduler


def _with_progress_bar(
    run: Callable[[OnStep], np.ndarray], config: SampleConfig, scheduler: Any, on_step: OnStep | None = None
) -> np.ndarray:
    """``run`` with a bar that counts the denoising steps of all batches; the scheduler's timesteps are set."""
    num_batches = math.ceil(config.num_images / config.batch_size)
    total = num_batches * len(scheduler.timesteps)  # some samplers evaluate the model twice a step
    with tqdm(total=total, desc="sampling", unit="step", dynamic_ncols=True) as bar:

        def update(images: Any) -> None:
            bar.update()
            if on_step is not None:
                on_step(images)

        return run(update)


# --- what a setting means for a model ------------------------------------------------------------------------------


def read_prompts(config: SampleConfig) -> list[str]:
    """The prompts that are given, or those of a file with one per line. Raises ConfigError if there are none."""
    if config.prompts_file is not None:
        try:
            lines = Path(config.prompts_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompts_file {config.prompts_file}: cannot be read ({first_line(error)})") from error
        prompts = [line.strip() for line in lines if line.strip()]
    else:
        prompts = list(config.prompt or [])
    if not prompts:
        raise ConfigError("--prompt: this model makes images from text; give one, or --prompts_file")
    return prompts


def check_image_size(config: SampleConfig, pipeline: StableDiffusionPipeline) -> None:
    """Raises ConfigError if the pipeline cannot generate images of the size that is asked for."""
    factor = pipelines.size_divisor(pipeline)
    for name in ("height", "width"):
        value = getattr(config, name)
        if value is not None and value % factor:
            raise ConfigError(f"--{name} {value}: must be a multiple of {factor} for this model")


def class_guidance(config: SamplingBase, labels: list[int] | None) -> float:
    """The guidance scale for classes. Raises ConfigError if one is given for a model without classes."""
    if config.guidance_scale not in (None, 1) and labels is None:
        raise ConfigError(f"--guidance_scale {config.guidance_scale}: this model has no classes; leave the flag")
    return 1.0 if config.guidance_scale is None else config.guidance_scale


def inference_steps(config: SamplingBase, sampler: str, scheduler: Any, default_steps: int = DEFAULT_STEPS) -> int:
    """The number of denoising steps, by default ``default_steps``, with ddpm all.

    Raises ConfigError if they are more than the noise levels.
    """
    noise_levels = scheduler.config.num_train_timesteps
    steps = config.num_inference_steps
    if steps is None:
        return noise_levels if sampler == "ddpm" else min(default_steps, noise_levels)
    check_steps("--num_inference_steps", steps, scheduler)
    return steps


def check_steps(flag: str, steps: int, scheduler: Any) -> None:
    """Raises ConfigError if there are more steps than noise levels."""
    noise_levels = scheduler.config.num_train_timesteps
    if steps > noise_levels:
        raise ConfigError(f"{flag} {steps}: the model has {noise_levels} noise levels; use at most that")

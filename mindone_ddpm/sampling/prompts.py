"""Pictures for prompts, from a Stable Diffusion pipeline: one generator a picture, as everywhere here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.data.randomness import batch_places
from mindone_ddpm.models import lora, pipelines, schedulers
from mindone_ddpm.runtime.start import start
from mindone_ddpm.sampling.config import SampleConfig
from mindone_ddpm.sampling.generate import check_output_folder, evaluating, inference_steps, sample_rngs
from mindone_ddpm.sampling.grids import write_images


def generate_from_prompts(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    sample_ids: Sequence[int],
    batch_size: int,
    num_inference_steps: int,
    seed: int,
    guidance_scale: float = 7.5,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    eta: float = 0.0,
    on_step: Callable[[Any], object] = lambda latents: None,
) -> np.ndarray:
    """Sample as mindone's ``StableDiffusionPipeline`` does.

    Args:
        prompts: the text of each picture.
        sample_ids: which pictures of the seed's endless row to make; one for each prompt.
        on_step: called with the batch's latents after each denoising step.

    Returns:
        Values from 0 to 1, float32 of shape (len(prompts), height, width, 3).
    """
    pipeline.set_progress_bar_config(disable=True)
    batch_size = min(batch_size, len(prompts))
    pictures = []

    def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(tensors["latents"])
        return {}

    with evaluating(pipeline.unet):
        for first in range(0, len(prompts), batch_size):
            places = batch_places(first, batch_size, len(prompts))
            values = pipeline(
                [prompts[place] for place in places],
                negative_prompt=None if negative_prompt is None else [negative_prompt] * batch_size,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                eta=eta,
                generator=sample_rngs(seed, [sample_ids[place] for place in places]),
                output_type="np",
                callback_on_step_end=after_step,
            )[0]
            pictures.append(np.asarray(values, np.float32)[: len(prompts) - first])
    return np.concatenate(pictures)


def read_prompts(config: SampleConfig) -> list[str]:
    """The prompts of the command line, or of a file.

    Raises:
        ConfigError: there are none.
    """
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


# Settings that text-to-image models do not have, and their defaults.
UNCONDITIONAL_SETTINGS = {"class_label": None, "save_trajectory": "none", "clip_sample": None}


def sample_prompt_values(pipeline: Any, config: SampleConfig) -> np.ndarray:
    """Sample from a Stable Diffusion pipeline, with a progress bar; the prompts in turn.

    Returns:
        Values from 0 to 1, float32 of shape (num_images, height, width, 3).

    Raises:
        ConfigError: a setting does not fit the model.
    """
    prompts = read_prompts(config)
    check_image_size(config, pipeline)
    own_scheduler = pipeline.scheduler
    name = config.scheduler or schedulers.sampler_name(own_scheduler)
    if config.scheduler is not None or config.timestep_spacing is not None:
        pipeline.scheduler = schedulers.make_sampler(name, own_scheduler, None, config.timestep_spacing)
    try:
        steps = inference_steps(config, name, pipeline.scheduler)
        pipeline.scheduler.set_timesteps(steps)
        num_batches = math.ceil(config.num_images / config.batch_size)
        total = num_batches * len(pipeline.scheduler.timesteps)
        with tqdm(total=total, desc="sampling", unit="step", dynamic_ncols=True) as bar:
            return generate_from_prompts(
                pipeline,
                [prompts[sample_id % len(prompts)] for sample_id in range(config.num_images)],
                sample_ids=range(config.num_images),
                batch_size=config.batch_size,
                num_inference_steps=steps,
                seed=config.seed,
                guidance_scale=7.5 if config.guidance_scale is None else config.guidance_scale,
                negative_prompt=config.negative_prompt,
                height=config.height,
                width=config.width,
                eta=config.eta or 0.0,
                on_step=lambda _: bar.update(),
            )
    finally:
        pipeline.scheduler = own_scheduler


def check_prompt_settings(config: SampleConfig) -> None:
    """Raises ConfigError where there are no prompts, or settings of unconditional models."""
    read_prompts(config)
    for name, default in UNCONDITIONAL_SETTINGS.items():
        if getattr(config, name) != default:
            raise ConfigError(f"--{name}: is for unconditional models; {config.model} makes images from text")


def prompts_to_folder(config: SampleConfig) -> Path:
    """Sample images for prompts into numbered PNGs and a grid; returns the grid's path.

    Raises:
        ConfigError: the model, the settings or the output folder cannot be used; before anything is written.
    """
    config.check()
    output_dir = check_output_folder(config)
    check_prompt_settings(config)
    start(config.device, config.mode, config.seed)
    pipeline = pipelines.load_text_pipeline(config.model)
    if config.lora is not None:
        check_image_size(config, pipeline)
        lora.merge_adapters(pipeline.unet, config.lora)
    return write_images(sample_prompt_values(pipeline, config), output_dir, config.bit_depth)


def check_image_size(config: SampleConfig, pipeline: Any) -> None:
    """Raises ConfigError if the pipeline cannot make pictures of the size asked for."""
    factor = pipelines.size_divisor(pipeline)
    for name in ("height", "width"):
        value = getattr(config, name)
        if value is not None and value % factor:
            raise ConfigError(f"--{name} {value}: must be a multiple of {factor} for this model")

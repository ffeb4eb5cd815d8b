"""Images for prompts, from a Stable Diffusion pipeline, with one generator per image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mindone_ddpm.data.batching import map_batches
from mindone_ddpm.sampling.generate import OnStep, evaluating, sample_rngs
from mindone_ddpm.sampling.steps import PipelineScheduler

if TYPE_CHECKING:
    from mindone.diffusers import StableDiffusionPipeline


def generate_from_prompts(
    pipeline: StableDiffusionPipeline,
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
    on_step: OnStep = lambda latents: None,
) -> np.ndarray:
    """Sample as mindone's ``StableDiffusionPipeline`` does.

    Args:
        prompts: the text of each image.
        sample_ids: which images of the seed to generate; one for each prompt.
        guidance_scale: 1: without guidance.
        height, width: in pixels; None: as the UNet was trained.
        on_step: called with the batch's latents after each denoising step.

    Returns:
        Values from 0 to 1, float32 of shape (len(prompts), height, width, 3).
    """
    pipeline.set_progress_bar_config(disable=True)

    def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(tensors["latents"])
        return {}

    def generate_batch(places: list[int]) -> np.ndarray:
        values = pipeline(
            [prompts[place] for place in places],
            negative_prompt=None if negative_prompt is None else [negative_prompt] * len(places),
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=sample_rngs(seed, [sample_ids[place] for place in places]),
            output_type="np",
            callback_on_step_end=after_step,
        )[0]
        return np.asarray(values, np.float32)

    with evaluating(pipeline.unet), planned_scheduler(pipeline, eta):
        return map_batches(generate_batch, range(len(prompts)), min(batch_size, len(prompts)))


@contextlib.contextmanager
def planned_scheduler(pipeline: Any, eta: float | None) -> Iterator[None]:
    """Let a pipeline's own loop take this package's denoising steps."""
    scheduler = pipeline.scheduler
    pipeline.scheduler = PipelineScheduler(scheduler, eta)
    try:
        yield
    finally:
        pipeline.scheduler = scheduler

"""Sampling from Python, for a notebook: load a pipeline, make images.

pipe = load("my-model")
images = sample(pipe, num_images=16, scheduler="ddim", seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.data.scaling import to_pixels
from mindone_ddpm.models import lora as adapters
from mindone_ddpm.models import new_tokens
from mindone_ddpm.models.foreign import pipeline_kind
from mindone_ddpm.models.pipelines import load_pipeline, load_text_pipeline
from mindone_ddpm.models.precision import set_sampling_dtype
from mindone_ddpm.runtime.start import start_once
from mindone_ddpm.sampling.config import SampleConfig
from mindone_ddpm.sampling.from_config import sample_values

if TYPE_CHECKING:
    from mindone_ddpm.sampling.from_config import Pipeline


def load(
    model: str | PathLike[str],
    *,
    lora: str | PathLike[str] | Sequence[str] | None = None,
    embedding: str | PathLike[str] | Sequence[str] | None = None,
    device: str = "auto",
    mode: str | None = None,
    dtype: str = "float32",
    hub: str = HUGGINGFACE,
) -> Pipeline:
    """Load a saved pipeline. MindSpore is started if it is not running yet.

    Args:
        model: a folder, such as a run's ``output_dir``, or a name on the hub.
        lora: folder or file of LoRA adapters to add to a Stable Diffusion pipeline, or several, each with its weight
            behind a colon: ``"A:0.8"``.
        embedding: folder or file of a word learned by textual inversion, or several.
        device: ``Ascend``, ``GPU`` or ``CPU``; ``auto``: the one in use, or the first that is there.
        mode: ``graph`` or ``pynative``; None: the one in use, at first graph.
        dtype: in which the UNet computes: ``float32``, ``fp16`` or ``bf16``.
        hub: ``huggingface``, ``modelscope`` or ``modelers``.

    Returns:
        mindone's DDPMPipeline or StableDiffusionPipeline.

    Raises:
        ConfigError: there is no such pipeline, it cannot be loaded, or the device has no kernels for ``dtype``.
        DeviceError: the device is not there.
    """
    backend = start_once(device, mode).backend
    if "StableDiffusion" not in pipeline_kind(str(model), hub=hub):
        for name, value in (("lora", lora), ("embedding", embedding)):
            if value is not None:
                raise ConfigError(f"{name}: is for text-to-image models; {model} is an unconditional one")
        pipeline: Pipeline = load_pipeline(str(model), hub=hub)
        set_sampling_dtype(pipeline.unet, dtype, backend)
        return pipeline
    pipeline = load_text_pipeline(str(model), hub=hub)
    if lora is not None:
        adapters.merge_adapters(pipeline, _listed(lora))
    if embedding is not None:
        new_tokens.load_into(pipeline, _listed(embedding))
    set_sampling_dtype(pipeline.unet, dtype, backend)
    return pipeline


def _listed(sources: str | PathLike[str] | Sequence[str]) -> list[str]:
    return [str(sources)] if isinstance(sources, str | PathLike) else [str(source) for source in sources]


def sample(
    pipe: Pipeline,
    num_images: int = 16,
    *,
    scheduler: str | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    prompts: str | Sequence[str] | None = None,
    negative_prompt: str | None = None,
    class_label: str | int | None = None,
    guidance_scale: float | None = None,
    eta: float | None = None,
    clip_sample: bool | None = None,
    timestep_spacing: str | None = None,
    height: int | None = None,
    width: int | None = None,
) -> np.ndarray:
    """Make images. The arguments mean what the flags of ``mindone-ddpm sample`` mean, and give the same images.

    Args:
        pipe: of :func:`load`.
        scheduler: the sampler: ddpm, ddim, dpmsolver++, euler, euler_ancestral, heun, unipc or pndm; by default the
            one that needs the fewest steps, for text the one that the pipeline was saved with.
        num_inference_steps: by default 1000 with ddpm, 50 with the others, 25 where no sampler is named.
        seed: image i depends on (seed, i) alone.
        batch_size: images denoised at once; changes them by rounding at most.
        prompts: of a Stable Diffusion pipeline; several are used in turn.
        negative_prompt: what the images should not show.
        class_label: of a class-conditional model: class names or numbers, with commas between; by default all in turn.
        guidance_scale: 1 is none; by default 1 for classes, 7.5 for prompts.
        eta: with ddim: 0 no noise between the steps, 1 as much as ddpm.
        clip_sample: with ddpm, ddim, dpmsolver++ and unipc: clip the predicted image; by default as trained.
        timestep_spacing: ``leading``, ``trailing`` or ``linspace``; by default as trained.
        height, width: in pixels, for prompts; by default as trained.

    Returns:
        uint8 of shape (num_images, height, width, channels); see ``make_grid``.

    Raises:
        ConfigError: an argument does not fit the model; names it by its flag.
    """
    config = SampleConfig(
        model=type(pipe).__name__,
        num_images=num_images,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        seed=seed,
        batch_size=batch_size,
        prompt=[prompts] if isinstance(prompts, str) else None if prompts is None else list(prompts),
        negative_prompt=negative_prompt,
        class_label=None if class_label is None else str(class_label),
        guidance_scale=guidance_scale,
        eta=eta,
        clip_sample=clip_sample,
        timestep_spacing=timestep_spacing,
        height=height,
        width=width,
    )
    config.check()
    values, _ = sample_values(pipe, config)
    return to_pixels(values)

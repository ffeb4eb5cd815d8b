"""Pictures from pictures, with an unconditional model: filling in a part, and going from one to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.data.images import IMAGE_ENDINGS, convert_channels, decode_image, resize
from mindone_ddpm.data.randomness import batch_places
from mindone_ddpm.models import schedulers
from mindone_ddpm.sampling.config import InpaintConfig, InterpolateConfig
from mindone_ddpm.sampling.generate import (
    choose_labels,
    class_guidance,
    denoise_steps,
    evaluating,
    image_shape,
    inference_steps,
    initial_noise,
    make_denoiser,
    open_model,
    sample_rngs,
)
from mindone_ddpm.sampling.grids import make_grid, save_image, to_pixels, to_values, write_images

with quiet_imports():
    from mindone.diffusers import RePaintScheduler


def read_image(path: Path, flag: str, unet: Any) -> np.ndarray:
    """A picture as the UNet takes it: [-1, 1], float32 of shape (channels, height, width).

    Raises:
        ConfigError, DataError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"--{flag} {path}: no such file")
    channels, height, width = image_shape(unet)
    if height != width:
        raise ConfigError(f"--model: makes pictures of {width}x{height}; only square ones can be edited")
    picture = convert_channels(decode_image(None, str(path), f"--{flag} {path}"), channels)
    pixels = np.atleast_3d(np.asarray(resize(picture, height, "crop", (0.5, 0.5))))
    return (pixels.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)


def repaint(
    denoise: Callable[[ms.Tensor, ms.Tensor], ms.Tensor],
    scheduler: Any,
    images: ms.Tensor,
    mask: ms.Tensor,
    noise: ms.Tensor,
    generators: list[np.random.Generator],
    on_step: Callable[[], object] = lambda: None,
) -> ms.Tensor:
    """Fill in what the mask leaves open (Lugmayr et al. 2022, algorithm 1).

    Args:
        scheduler: a RePaintScheduler whose timesteps are set.
        images: [-1, 1], float32 of shape (batch, channels, height, width).
        mask: the same shape; 1 where the image is kept, 0 where it is made.
        noise: what to begin with, like ``images``.

    Returns:
        Like ``images``.
    """
    current = noise
    later = int(scheduler.timesteps[0]) + 1
    for timestep in scheduler.timesteps.asnumpy().tolist():
        if timestep < later:
            output = denoise(current, ms.Tensor(np.full(len(generators), timestep, np.int32)))
            current = scheduler.step(output, timestep, current, images, mask, generator=generators)[0]
        else:  # a jump back into the noise
            current = scheduler.undo_step(current, later, generators)
        current = current.astype(ms.float32)
        later = timestep
        on_step()
    return current


def inpaint(config: InpaintConfig) -> Path:
    """Complete a picture, or each of a folder, in several versions; returns the grid's path.

    Raises:
        ConfigError, DataError: the model, the pictures or the output folder will not do.
    """
    config.check()
    output_dir, pipeline = open_model(config)
    unet = pipeline.unet
    if pipeline.scheduler.config.prediction_type != "epsilon":
        raise ConfigError(
            f"--model {config.model}: predicts {pipeline.scheduler.config.prediction_type}; RePaint needs epsilon"
        )
    # With eta 1 the steps are those of DDPM, as in the paper.
    scheduler = RePaintScheduler.from_config(pipeline.scheduler.config, eta=1.0)
    steps = inference_steps(config, "repaint", scheduler)
    source = Path(config.image)
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_ENDINGS) if source.is_dir() else [source]
    if not paths:
        raise ConfigError(f"--image {source}: the folder holds no pictures")
    pictures = [read_image(path, "image", unet) for path in paths]
    kept = read_mask(Path(config.mask), unet)
    copies = [number for number in range(len(pictures)) for _ in range(config.num_images)]
    labels = choose_labels(unet, config.class_label, len(copies))
    guidance_scale = class_guidance(config, labels)

    scheduler.set_timesteps(steps, config.jump_length, config.jump_n_sample)
    batch_size = min(config.batch_size, len(copies))
    num_batches = -(-len(copies) // batch_size)
    results = []
    with evaluating(unet), tqdm(total=num_batches * len(scheduler.timesteps), desc="inpainting", unit="step") as bar:
        for first in range(0, len(copies), batch_size):
            places = batch_places(first, batch_size, len(copies))
            generators = sample_rngs(config.seed, places)
            images = ms.Tensor(np.stack([pictures[copies[place]] for place in places]), ms.float32)
            mask = ms.Tensor(np.broadcast_to(kept, images.shape).copy(), ms.float32)
            chosen = None if labels is None else [labels[place] for place in places]
            denoise = make_denoiser(unet, chosen, guidance_scale)
            noise = initial_noise(unet, scheduler, generators)
            done = repaint(denoise, scheduler, images, mask, noise, generators, bar.update)
            results.append(to_values(done)[: len(copies) - first])
    values = np.concatenate(results)

    output_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, path in enumerate(paths):
        versions = values[number * config.num_images : (number + 1) * config.num_images]
        for version, picture in enumerate(versions):
            save_image(picture, output_dir / f"{path.stem}-{version:02d}.png", config.bit_depth)
        masked = (pictures[number] * kept / 2 + 0.5).transpose(1, 2, 0)
        rows.append(np.concatenate([masked[None], versions]))
    grid = output_dir / "grid.png"
    make_grid(to_pixels(np.concatenate(rows)), columns=config.num_images + 1).save(grid)
    return grid


def read_mask(path: Path, unet: Any) -> np.ndarray:
    """1 where the mask picture is light, 0 where it is dark; float32 of shape (1, height, width)."""
    if not path.is_file():
        raise ConfigError(f"--mask {path}: no such file")
    _, height, _ = image_shape(unet)
    picture = convert_channels(decode_image(None, str(path), f"--mask {path}"), 1)
    kept = np.asarray(resize(picture, height, "crop", (0.5, 0.5), "nearest")) >= 128
    if kept.all() or not kept.any():
        raise ConfigError(f"--mask {path}: must have white parts, which are kept, and black ones, which are made anew")
    return kept[None].astype(np.float32)


def interpolate(config: InterpolateConfig) -> Path:
    """A row of pictures from one to another; returns the grid's path.

    Both pictures get the same noise, are mixed there, and are denoised together (Ho et al. 2020, section 4.4).

    Raises:
        ConfigError, DataError: the model, the pictures or the output folder will not do.
    """
    config.check()
    output_dir, pipeline = open_model(config)
    unet = pipeline.unet
    scheduler = schedulers.make_sampler(config.scheduler, pipeline.scheduler)
    ends = [read_image(Path(getattr(config, name)), name, unet) for name in ("image_a", "image_b")]
    steps = inference_steps(config, config.scheduler, scheduler)
    scheduler.set_timesteps(steps)
    all_timesteps = scheduler.timesteps.asnumpy().tolist()
    timesteps = all_timesteps[min(steps - 1, round(steps * (1.0 - config.strength))) :]
    alpha = float(scheduler.alphas_cumprod[timesteps[0]])
    shares = np.linspace(0.0, 1.0, config.num_images, dtype=np.float32)
    batch_size = min(config.batch_size, config.num_images)
    labels = choose_labels(unet, config.class_label, 1)  # one class for the whole row
    guidance_scale = class_guidance(config, labels)
    results = []
    num_batches = -(-config.num_images // batch_size)
    with evaluating(unet), tqdm(total=num_batches * len(timesteps), desc="interpolating", unit="step") as bar:
        for first in range(0, config.num_images, batch_size):
            row = shares[batch_places(first, batch_size, config.num_images)]
            generators = sample_rngs(config.seed, [0] * batch_size)  # the same noise for the whole row
            noise = np.stack([generator.standard_normal(image_shape(unet)) for generator in generators])
            mixed = np.stack([(1.0 - share) * ends[0] + share * ends[1] for share in row])
            images = ms.Tensor(np.sqrt(alpha) * mixed + np.sqrt(1.0 - alpha) * noise, ms.float32)
            denoise = make_denoiser(unet, None if labels is None else labels * batch_size, guidance_scale)
            done = denoise_steps(denoise, scheduler, images, timesteps, generators, on_step=lambda _: bar.update())
            results.append(to_values(done)[: config.num_images - first])
    values = np.concatenate(results)
    return write_images(values, output_dir, config.bit_depth, columns=config.num_images)

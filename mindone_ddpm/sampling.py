"""Seeded sampling: from a UNet and a scheduler to pictures, and pictures to files and grids.

Picture ``i`` starts from noise, and is stepped with noise, drawn from a generator keyed by (seed, i): it does not
depend on how many are made, in batches of what size, or after what training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_ddpm import models
from mindone_ddpm.config import ConfigError, SampleConfig, check_sampling, check_writable
from mindone_ddpm.data import random_stream
from mindone_ddpm.runtime import start

PICTURE_STREAM = 3
SMALLEST_CELL_PIXELS = 64


def generate(
    unet: Any,
    scheduler: Any,
    *,
    numbers: Sequence[int],
    batch_size: int,
    num_inference_steps: int,
    seed: int,
    on_step: Callable[[int], object] = lambda images: None,
) -> np.ndarray:
    """Sample as ``DDPMPipeline`` does, one generator a picture.

    Args:
        numbers: which pictures of the seed's endless row to make.
        unet: a UNet2DModel; called with a batch of always the same size, so that it is compiled once.
        scheduler: anything with ``set_timesteps``, ``timesteps`` and ``step``.
        on_step: called with the number of pictures in the batch after each denoising step.

    Returns:
        Pixels, uint8 of shape (len(numbers), size, size, channels).
    """
    training = unet.training
    unet.set_train(False)
    batch_size = min(batch_size, len(numbers))
    pictures = []
    try:
        for first in range(0, len(numbers), batch_size):
            batch = list(numbers[first : first + batch_size])
            filled = batch + batch[-1:] * (batch_size - len(batch))
            generators = [random_stream(seed, PICTURE_STREAM, number) for number in filled]
            pixels = _denoise(unet, scheduler, generators, num_inference_steps, on_step)
            pictures.append(pixels[: len(batch)])
    finally:
        unet.set_train(training)
    return np.concatenate(pictures)


def _denoise(
    unet: Any, scheduler: Any, generators: list[np.random.Generator], num_inference_steps: int, on_step: Callable
) -> np.ndarray:
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (unet.config.in_channels, height, width)
    noise = np.stack([generator.standard_normal(shape) for generator in generators])
    images = ms.Tensor(noise, ms.float32)
    scheduler.set_timesteps(num_inference_steps)
    for timestep in scheduler.timesteps.asnumpy().tolist():
        timesteps = ms.Tensor(np.full(len(generators), timestep, np.int32))
        output = unet(images, timesteps)[0]
        images = scheduler.step(output, ms.Tensor(timestep, ms.int64), images, generator=generators)[0]
        on_step(len(generators))
    values = np.clip(images.asnumpy() / 2 + 0.5, 0.0, 1.0).transpose(0, 2, 3, 1)
    return (values * 255.0).round().astype(np.uint8)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """From uint8 pixels of shape (height, width, channels)."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def make_grid(pictures: np.ndarray, columns: int | None = None) -> Image.Image:
    """Lay pictures out in a near-square grid; pictures too small to see are enlarged.

    Args:
        pictures: uint8 of shape (number, height, width, channels).
    """
    number, height, width, channels = pictures.shape
    factor = max(1, SMALLEST_CELL_PIXELS // max(height, width))
    gap = 2
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    cell_height, cell_width = height * factor + gap, width * factor + gap
    grid = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), 255, np.uint8)
    for place, pixels in enumerate(pictures):
        top, left = place // columns * cell_height + gap, place % columns * cell_width + gap
        enlarged = to_picture(pixels).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        grid[top : top + enlarged.height, left : left + enlarged.width] = np.atleast_3d(np.asarray(enlarged))
    return to_picture(grid)


def sample_to_folder(config: SampleConfig) -> Path:
    """Sample from a saved pipeline into numbered PNGs and a grid; returns the grid's path.

    Raises:
        ConfigError: the model or the output folder will not do; before anything is written.
    """
    check_sampling(config)
    output_dir = Path(config.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output_dir {output_dir}: is a file; give a folder")
    check_writable(output_dir)
    if any(output_dir.glob("*.png")) and not config.overwrite_output_dir:
        raise ConfigError(
            f"--output_dir {output_dir}: already holds pictures; give another folder, or --overwrite_output_dir"
        )
    start(config.device, config.mode, config.seed)
    pipeline = models.load_pipeline(config.model)
    scheduler = models.make_sampler(config.scheduler, pipeline.scheduler)
    noise_levels = scheduler.config.num_train_timesteps
    if config.num_inference_steps > noise_levels:
        raise ConfigError(
            f"--num_inference_steps {config.num_inference_steps}: "
            f"the model has {noise_levels} noise levels; use at most that"
        )
    num_batches = math.ceil(config.num_images / config.batch_size)
    with tqdm(total=num_batches * config.num_inference_steps, desc="sampling", unit="step", dynamic_ncols=True) as bar:
        pictures = generate(
            pipeline.unet,
            scheduler,
            numbers=range(config.num_images),
            batch_size=config.batch_size,
            num_inference_steps=config.num_inference_steps,
            seed=config.seed,
            on_step=lambda _: bar.update(),
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    for old in output_dir.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        old.unlink()
    for number, pixels in enumerate(pictures):
        to_picture(pixels).save(output_dir / f"{number:05d}.png")
    grid = output_dir / "grid.png"
    make_grid(pictures).save(grid)
    return grid

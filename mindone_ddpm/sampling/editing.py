"""Images from images, with an unconditional model: inpainting, and interpolation between two images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np

from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.data.batching import map_batches
from mindone_ddpm.models.schedulers import is_flow
from mindone_ddpm.sampling.generate import (
    Denoiser,
    denoise_steps,
    evaluating,
    image_shape,
    initial_noise,
    make_denoiser,
    sample_rngs,
)
from mindone_ddpm.sampling.images import to_values

with quiet_imports():
    from mindone.diffusers import RePaintScheduler


def make_repaint_scheduler(scheduler: Any) -> RePaintScheduler:
    """A RePaintScheduler with another scheduler's noise levels. With eta 1 its steps are DDPM's, as in the paper."""
    return RePaintScheduler.from_config(scheduler.config, eta=1.0)


def repaint(
    denoise: Denoiser,
    scheduler: RePaintScheduler,
    images: ms.Tensor,
    mask: ms.Tensor,
    noise: ms.Tensor,
    rngs: list[np.random.Generator],
    on_step: Callable[[], object] = lambda: None,
) -> ms.Tensor:
    """Fill the part of a batch that the mask leaves open (Lugmayr et al. 2022, algorithm 1).

    Args:
        scheduler: its timesteps are set.
        images: [-1, 1], float32 of shape (batch, channels, height, width).
        mask: the same shape; 1 where the image is kept, 0 where it is generated.
        noise: what to start from, like ``images``.
        rngs: one per image.

    Returns:
        Like ``images``.
    """
    current = noise
    later = int(scheduler.timesteps[0]) + 1
    for timestep in scheduler.timesteps.asnumpy().tolist():
        if timestep < later:
            output = denoise(current, ms.Tensor(np.full(len(rngs), timestep, np.int32)))
            current = scheduler.step(output, timestep, current, images, mask, generator=rngs)[0]
        else:  # a jump back into the noise
            current = scheduler.undo_step(current, later, rngs)
        current = current.astype(ms.float32)
        later = timestep
        on_step()
    return current


def inpaint_values(
    unet: Any,
    scheduler: RePaintScheduler,
    images: np.ndarray,
    mask: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    labels: Sequence[int] | None = None,
    guidance_scale: float = 1.0,
    on_step: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Inpaint images; image ``i`` depends on ``seed`` and ``i`` alone.

    Args:
        scheduler: its timesteps are set.
        images: [-1, 1], float32 of shape (number, channels, height, width).
        mask: 1 where the images are kept, 0 where they are generated; float32 of shape (1, height, width).
        labels, guidance_scale: see :func:`mindone_ddpm.sampling.generate.generate`.

    Returns:
        Values from 0 to 1, float32 of shape (number, height, width, channels).
    """

    def inpaint_batch(places: list[int]) -> np.ndarray:
        rngs = sample_rngs(seed, places)
        batch = ms.Tensor(images[places], ms.float32)
        batch_mask = ms.Tensor(np.broadcast_to(mask, batch.shape).copy(), ms.float32)
        denoise = make_denoiser(unet, None if labels is None else [labels[p] for p in places], guidance_scale)
        noise = initial_noise(unet, scheduler, rngs)
        return to_values(repaint(denoise, scheduler, batch, batch_mask, noise, rngs, on_step))

    with evaluating(unet):
        return map_batches(inpaint_batch, range(len(images)), min(batch_size, len(images)))


def levels_at(scheduler: Any, timestep: float) -> tuple[float, float]:
    """The shares of the image and of the noise in a noisy image at a timestep."""
    if is_flow(scheduler):
        sigma = timestep / scheduler.config.num_train_timesteps
        return 1.0 - sigma, sigma
    alpha = float(scheduler.alphas_cumprod[int(timestep)])
    return np.sqrt(alpha), np.sqrt(1.0 - alpha)


def interpolate_values(
    unet: Any,
    scheduler: Any,
    ends: tuple[np.ndarray, np.ndarray],
    timesteps: Sequence[float],
    *,
    num_images: int,
    batch_size: int,
    seed: int,
    label: int | None = None,
    guidance_scale: float = 1.0,
    on_step: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """A row of images from one to another (Ho et al. 2020, section 4.4).

    Both are given the same noise, mixed there, and denoised.

    Args:
        ends: the first and the last image, [-1, 1], float32 of shape (channels, height, width).
        timesteps: the last ones of the scheduler's, which are set; the first of them says how much noise is added.
        label: the class of the whole row.

    Returns:
        Values from 0 to 1, float32 of shape (num_images, height, width, channels).
    """
    signal, spread = levels_at(scheduler, timesteps[0])
    shares = np.linspace(0.0, 1.0, num_images, dtype=np.float32)

    def interpolate_batch(row: list[float]) -> np.ndarray:
        rngs = sample_rngs(seed, [0] * len(row))  # the same noise for the whole row
        noise = np.stack([rng.standard_normal(image_shape(unet)) for rng in rngs])
        mixed = np.stack([(1.0 - share) * ends[0] + share * ends[1] for share in row])
        images = ms.Tensor(signal * mixed + spread * noise, ms.float32)
        denoise = make_denoiser(unet, None if label is None else [label] * len(row), guidance_scale)
        done = denoise_steps(denoise, scheduler, images, timesteps, rngs, on_step=lambda _: on_step())
        return to_values(done)

    with evaluating(unet):
        return map_batches(interpolate_batch, list(shares), min(batch_size, num_images))

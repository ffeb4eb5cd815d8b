"""Seeded sampling: from a UNet and a scheduler to images.

Image ``i`` starts from noise, and is denoised with noise, drawn from a generator keyed by (seed, i). It does not depend
on how many images are generated, on the batch size, or on the training before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from mindone_ddpm.common.errors import ConfigError, ModelError, computing_networks
from mindone_ddpm.common.randomness import IMAGE_STREAM, random_stream
from mindone_ddpm.data.batching import map_batches
from mindone_ddpm.models.unet import class_names
from mindone_ddpm.sampling.images import to_values
from mindone_ddpm.sampling.steps import initial_deviation, make_steps

# Predicts for a batch: f(images, timesteps).
Denoiser = Callable[[ms.Tensor, ms.Tensor], ms.Tensor]
# Called after each denoising step with the batch's noisy images (or latents).
OnStep = Callable[[ms.Tensor], object]


def sample_rngs(seed: int, sample_ids: Sequence[int]) -> list[np.random.Generator]:
    """The generator of each image, keyed by the seed and the image's id."""
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
    on_step: OnStep = lambda images: None,
) -> np.ndarray:
    """Sample as ``DDPMPipeline`` does, with one generator per image.

    Args:
        unet: a UNet2DModel; called with batches of one size, so that it is compiled once.
        scheduler: anything with ``set_timesteps``, ``timesteps`` and ``step``.
        sample_ids: which images of the seed to generate.
        labels: of a class-conditional model, the class of each of ``sample_ids``.
        guidance_scale: see :func:`make_denoiser`.
        eta: of a DDIMScheduler.
        on_step: called with the batch's noisy images, float32 (batch, channels, size, size), after each step.

    Returns:
        Values from 0 to 1, float32 of shape (len(sample_ids), size, size, channels).
    """

    def generate_batch(places: list[int]) -> np.ndarray:
        rngs = sample_rngs(seed, [sample_ids[place] for place in places])
        denoise = make_denoiser(unet, None if labels is None else [labels[p] for p in places], guidance_scale)
        scheduler.set_timesteps(num_inference_steps)
        images = initial_noise(unet, scheduler, rngs)
        timesteps = scheduler.timesteps.asnumpy().tolist()
        return to_values(denoise_steps(denoise, scheduler, images, timesteps, rngs, eta, on_step))

    with evaluating(unet):
        return map_batches(generate_batch, range(len(sample_ids)), min(batch_size, len(sample_ids)))


@contextlib.contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Put a network into evaluation mode, and back into the mode that it was in. Its weights must not change inside.

    Raises ModelError where it cannot be computed; see :func:`computing_networks`.
    """
    training = network.training
    network.set_train(False)
    # A device's own operators may prepare what stays the same.
    held_weights = getattr(network, "held_weights", contextlib.nullcontext)
    try:
        with computing_networks(), held_weights():
            yield
    finally:
        network.set_train(training)


def image_shape(unet: Any) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a UNet generates. Raises ModelError where it does not say."""
    size = unet.config.sample_size
    if size is None:
        raise ModelError("the model's unet/config.json has no sample_size, the side of its images in pixels")
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


def initial_noise(unet: Any, scheduler: Any, rngs: list[np.random.Generator]) -> ms.Tensor:
    """Noise at the scheduler's scale, float32 of shape (len(rngs), channels, height, width)."""
    noise = np.stack([rng.standard_normal(image_shape(unet)) for rng in rngs])
    return ms.Tensor(noise * initial_deviation(scheduler), ms.float32)


def make_denoiser(unet: Any, labels: Sequence[int] | None, guidance_scale: float = 1.0) -> Denoiser:
    """The prediction for a batch, guided where there are labels.

    Classifier-free guidance (Ho & Salimans 2022, equation 6, with w = ``guidance_scale`` - 1):
    ``f_none + guidance_scale (f_class - f_none)``; with 1 the class-conditional model, with 0 the one without a class.

    Args:
        labels: the class of each image of the batch; None: a model without classes.
    """
    if labels is None:
        return lambda images, timesteps: unet(images, timesteps)[0]
    classes = ms.Tensor(np.asarray(labels), ms.int32)
    dropped = ms.Tensor(np.full(len(labels), unet.config.num_class_embeds - 1), ms.int32)
    if guidance_scale in (0.0, 1.0):
        used = classes if guidance_scale else dropped
        return lambda images, timesteps: unet(images, timesteps, used)[0]
    both = ops.cat([dropped, classes])

    def guided(images: ms.Tensor, timesteps: ms.Tensor) -> ms.Tensor:
        output = unet(ops.cat([images, images]), ops.cat([timesteps, timesteps]), both)[0]
        without, with_class = output[: len(labels)], output[len(labels) :]
        return without + guidance_scale * (with_class - without)

    return guided


def denoise_steps(
    denoise: Denoiser,
    scheduler: Any,
    images: ms.Tensor,
    timesteps: Sequence[float],
    rngs: list[np.random.Generator],
    eta: float | None = None,
    on_step: OnStep = lambda images: None,
) -> ms.Tensor:
    """Denoise a batch.

    Args:
        images: float32 of shape (batch, channels, height, width), as noisy as the first of ``timesteps`` says.
        timesteps: all of the scheduler's, or its last ones.
        rngs: one per image.

    Returns:
        Like ``images``.
    """
    steps = make_steps(scheduler, timesteps, eta)
    for number, timestep in enumerate(timesteps):
        # Some samplers step between whole timesteps.
        dtype = np.int32 if isinstance(timestep, int) else np.float32
        now = ms.Tensor(np.full(len(rngs), timestep, dtype))
        output = denoise(steps.model_input(images, number), now)
        images = steps.step(output, images, number, rngs)
        on_step(images)
    return images


def choose_labels(unet: Any, wanted: str | None, number: int) -> list[int] | None:
    """The class of each of ``number`` images.

    Args:
        wanted: names or numbers of classes, with commas between, used in turn; None: all classes in turn.

    Returns:
        None for a model without classes.

    Raises:
        ConfigError: the model has no such class, or no classes.
    """
    names = class_names(unet)
    if not names:
        if wanted is not None:
            raise ConfigError(f"--class_label {wanted}: this model has no classes")
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

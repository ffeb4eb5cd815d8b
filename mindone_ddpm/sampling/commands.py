"""The commands sample, inpaint and interpolate: from a configuration to a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import check_writable
from mindone_ddpm.config.values import GRID_FILE
from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.images import IMAGE_ENDINGS, convert_channels, decode_image, resize
from mindone_ddpm.data.scaling import to_model_range, to_pixels
from mindone_ddpm.models import lora, new_tokens, pipelines, schedulers
from mindone_ddpm.models.foreign import pipeline_kind
from mindone_ddpm.models.precision import SAMPLING_NAMES, check_precision, set_sampling_dtype
from mindone_ddpm.runtime.start import start
from mindone_ddpm.sampling import editing
from mindone_ddpm.sampling.config import ImagesBase, InpaintConfig, InterpolateConfig, SampleConfig
from mindone_ddpm.sampling.from_config import (
    check_image_size,
    check_kind,
    class_guidance,
    inference_steps,
    sample_values,
)
from mindone_ddpm.sampling.generate import choose_labels, image_shape
from mindone_ddpm.sampling.images import save_image, write_images

MIDDLE = (0.5, 0.5)  # where an image is cropped


def sample_to_folder(config: SampleConfig) -> Path:
    """Sample from a saved pipeline of either kind into numbered PNGs and a grid; returns the grid's path.

    Raises:
        ConfigError: the model, the settings or the output folder cannot be used; before anything is written.
    """
    config.check()
    output_dir = check_output_folder(config)
    is_text_to_image = "StableDiffusion" in pipeline_kind(config.model, hub=config.hub)
    check_kind(config, is_text_to_image)
    runtime = start(config.device, config.mode, config.seed, jit_level=config.jit_level, alone=True)
    check_precision("--dtype", config.dtype, runtime.backend, SAMPLING_NAMES)
    if is_text_to_image:
        pipeline: Any = pipelines.load_text_pipeline(config.model, hub=config.hub)
        check_image_size(config, pipeline)
    else:
        pipeline = pipelines.load_unconditional(config.model, hub=config.hub)
    if config.lora is not None:
        lora.merge_adapters(pipeline, config.lora)
    if config.embedding is not None:
        new_tokens.load_into(pipeline, config.embedding)
    set_sampling_dtype(pipeline.unet, config.dtype, runtime.backend)
    values, trajectory = sample_values(pipeline, config)
    grid = write_images(values, output_dir, config.bit_depth)
    if trajectory is not None:
        trajectory.save(output_dir, config.save_trajectory)
    return grid


def inpaint(config: InpaintConfig) -> Path:
    """Inpaint an image, or each image of a folder, in several versions; returns the path of a grid of them.

    Raises:
        ConfigError, DataError: the model, the images or the output folder cannot be used.
    """
    config.check()
    output_dir, pipeline = open_model(config)
    unet = pipeline.unet
    predicted = schedulers.prediction_type(pipeline.scheduler)
    if predicted != "epsilon":
        raise ConfigError(f"--model {config.model}: predicts {predicted}; RePaint needs epsilon")
    scheduler = editing.make_repaint_scheduler(pipeline.scheduler)
    steps = inference_steps(config, "repaint", scheduler)
    paths = image_paths(Path(config.image))
    images = np.stack([read_image(path, "image", unet) for path in paths])
    mask = read_mask(Path(config.mask), unet)
    versions = images.repeat(config.num_images, axis=0)
    labels = choose_labels(unet, config.class_label, len(versions))
    guidance_scale = class_guidance(config, labels)

    scheduler.set_timesteps(steps, config.jump_length, config.jump_n_sample)
    num_batches = -(-len(versions) // config.batch_size)
    with tqdm(total=num_batches * len(scheduler.timesteps), desc="inpainting", unit="step") as bar:
        values = editing.inpaint_values(
            unet,
            scheduler,
            versions,
            mask,
            batch_size=config.batch_size,
            seed=config.seed,
            labels=labels,
            guidance_scale=guidance_scale,
            on_step=bar.update,
        )
    return write_versions(config, output_dir, paths, images * mask, values)


def write_versions(
    config: InpaintConfig, output_dir: Path, paths: list[Path], masked: np.ndarray, values: np.ndarray
) -> Path:
    """Write the versions of each image, and a grid with a row per image: what was kept of it, then its versions."""
    output_dir.mkdir(parents=True, exist_ok=True)
    by_image = values.reshape(len(paths), config.num_images, *values.shape[1:])
    for path, versions in zip(paths, by_image, strict=True):
        for version, image in enumerate(versions):
            save_image(image, output_dir / f"{path.stem}-{version:02d}.png", config.bit_depth)
    given = (masked / 2 + 0.5).transpose(0, 2, 3, 1)[:, None]
    rows = np.concatenate([given, by_image], axis=1)
    grid = output_dir / GRID_FILE
    make_grid(to_pixels(rows.reshape(-1, *values.shape[1:])), columns=config.num_images + 1).save(grid)
    return grid


def interpolate(config: InterpolateConfig) -> Path:
    """Write a row of images from one to another; returns the grid's path.

    Raises:
        ConfigError, DataError: the model, the images or the output folder cannot be used.
    """
    config.check()
    output_dir, pipeline = open_model(config)
    unet = pipeline.unet
    is_flow = schedulers.is_flow(pipeline.scheduler)
    sampler = config.scheduler or ("euler" if is_flow else "ddim")
    if sampler == "euler" and not is_flow:
        raise ConfigError("--scheduler euler: has noise levels of its own; use ddpm or ddim with this model")
    scheduler = schedulers.make_sampler(sampler, pipeline.scheduler)
    ends = read_image(Path(config.image_a), "image_a", unet), read_image(Path(config.image_b), "image_b", unet)
    steps = inference_steps(config, sampler, scheduler)
    schedulers.set_timesteps(scheduler, steps)
    all_timesteps = scheduler.timesteps.asnumpy().tolist()
    timesteps = all_timesteps[min(steps - 1, round(steps * (1.0 - config.strength))) :]
    labels = choose_labels(unet, config.class_label, 1)
    guidance_scale = class_guidance(config, labels)
    num_batches = -(-config.num_images // config.batch_size)
    with tqdm(total=num_batches * len(timesteps), desc="interpolating", unit="step") as bar:
        values = editing.interpolate_values(
            unet,
            scheduler,
            ends,
            timesteps,
            num_images=config.num_images,
            batch_size=config.batch_size,
            seed=config.seed,
            label=None if labels is None else labels[0],
            guidance_scale=guidance_scale,
            on_step=bar.update,
        )
    return write_images(values, output_dir, config.bit_depth, columns=config.num_images)


# --- what is given -------------------------------------------------------------------------------------------------


def check_output_folder(config: ImagesBase) -> Path:
    """The folder for the images. Raises ConfigError if it cannot be used."""
    output_dir = Path(config.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output_dir {output_dir}: is a file; give a folder")
    check_writable(output_dir)
    if any(output_dir.glob("*.png")) and not config.overwrite_output_dir:
        raise ConfigError(
            f"--output_dir {output_dir}: already holds images; give another folder, or --overwrite_output_dir"
        )
    return output_dir


def open_model(config: ImagesBase) -> tuple[Path, Any]:
    """The folder for the images, checked, and the model's unconditional pipeline, with MindSpore started.

    Raises:
        ConfigError: one of them cannot be used.
    """
    output_dir = check_output_folder(config)
    start(config.device, config.mode, config.seed, jit_level=config.jit_level, alone=True)
    return output_dir, pipelines.load_unconditional(config.model, hub=config.hub)


def image_paths(source: Path) -> list[Path]:
    """A file, or the images of a folder in the order of their names. Raises ConfigError if there are none."""
    if not source.is_dir():
        return [source]
    paths = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise ConfigError(f"--image {source}: the folder holds no images")
    return paths


def read_image(path: Path, flag: str, unet: Any) -> np.ndarray:
    """An image as the UNet takes it: [-1, 1], float32 of shape (channels, height, width).

    Raises:
        ConfigError, DataError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"--{flag} {path}: no such file")
    channels, height, width = image_shape(unet)
    if height != width:
        raise ConfigError(f"--model: makes images of {width}x{height}; only square ones can be edited")
    image = convert_channels(decode_image(None, str(path), f"--{flag} {path}"), channels)
    pixels = np.atleast_3d(np.asarray(resize(image, height, "crop", MIDDLE)))
    return to_model_range(pixels).transpose(2, 0, 1)


def read_mask(path: Path, unet: Any) -> np.ndarray:
    """1 where the mask is light, 0 where it is dark; float32 of shape (1, height, width).

    Raises:
        ConfigError, DataError: there is none, it cannot be read, or it is all light or all dark.
    """
    if not path.is_file():
        raise ConfigError(f"--mask {path}: no such file")
    _, height, _ = image_shape(unet)
    image = convert_channels(decode_image(None, str(path), f"--mask {path}"), 1)
    is_kept = np.asarray(resize(image, height, "crop", MIDDLE, "nearest")) >= 128
    if is_kept.all() or not is_kept.any():
        raise ConfigError(f"--mask {path}: must have white parts, which are kept, and black ones, which are generated")
    return is_kept[None].astype(np.float32)

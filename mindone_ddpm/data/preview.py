"""A preview of a run's data: images as they are stored, and as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from mindone_ddpm.common.randomness import SAMPLE_STREAM, random_stream
from mindone_ddpm.data.augment import draw_transform, warp
from mindone_ddpm.data.grids import SMALLEST_CELL_PIXELS, make_grid
from mindone_ddpm.data.images import convert_channels
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.scaling import from_model_range, to_pixels

GAP_PIXELS = 16


def draw_preview(
    datasets: Sequence[ImageRecords], num_images: int, seed: int, augment_probability: float = 0.0
) -> Image.Image:
    """Two grids for each data set, one above the other: the first images of a run as stored, and below as augmented.

    Args:
        num_images: of each data set, at most.
        seed, augment_probability: of the run.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    grids = [
        grid for records in datasets for grid in _stored_and_augmented(records, num_images, seed, augment_probability)
    ]
    width = max(grid.width for grid in grids)
    height = sum(grid.height for grid in grids) + GAP_PIXELS * (len(grids) - 1)
    page = Image.new("RGB", (width, height), "grey")
    top = 0
    for grid in grids:
        page.paste(grid, (0, top))
        top += grid.height + GAP_PIXELS
    return page


def _stored_and_augmented(
    records: ImageRecords, num_images: int, seed: int, augment_probability: float
) -> tuple[Image.Image, Image.Image]:
    indices = records.order(seed, 0)[:num_images]
    rngs = [random_stream(seed, SAMPLE_STREAM, place) for place in range(len(indices))]
    augmented = on_white([records.augmented_image(index, rng) for index, rng in zip(indices, rngs, strict=True)])
    if augment_probability > 0.0:  # drawn where the job draws it
        matrices = [draw_transform(rng, augment_probability).matrix for rng in rngs]
        augmented = np.stack([warp(image, matrix) for image, matrix in zip(augmented, matrices, strict=True)])
    cell = max(SMALLEST_CELL_PIXELS, records.size)
    stored = []
    for index in indices:
        fitted = ImageOps.contain(convert_channels(records.original(index), 3), (cell, cell))
        stored.append(np.asarray(ImageOps.pad(fitted, (cell, cell), color="white")))
    pixels = to_pixels(from_model_range(augmented)).transpose(0, 2, 3, 1)
    return make_grid(np.stack(stored)), make_grid(pixels).convert("RGB")


def on_white(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images in [-1, 1] of shapes (channels, height, width), each in the middle of a white one as large as any.

    Returns:
        Float32 of shape (number, channels, largest height, largest width).
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    page = np.ones((len(images), images[0].shape[0], height, width), np.float32)
    for place, image in zip(page, images, strict=True):
        top, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
        place[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return page

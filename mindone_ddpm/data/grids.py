"""Images laid out in a grid, for a person to look at."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SMALLEST_CELL_PIXELS = 64
GAP_PIXELS = 2


def to_image(pixels: np.ndarray) -> Image.Image:
    """A Pillow image from uint8 pixels of shape (height, width, 1, 3 or 4)."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def make_grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images in rows on white, by default as many rows as columns. Images too small to see are enlarged.

    Args:
        images: uint8 of shape (number, height, width, channels).
    """
    number, height, width, channels = images.shape
    factor = max(1, SMALLEST_CELL_PIXELS // max(height, width))
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    cell_height, cell_width = height * factor + GAP_PIXELS, width * factor + GAP_PIXELS
    grid = np.full((rows * cell_height + GAP_PIXELS, columns * cell_width + GAP_PIXELS, channels), 255, np.uint8)
    for place, pixels in enumerate(images):
        top, left = place // columns * cell_height + GAP_PIXELS, place % columns * cell_width + GAP_PIXELS
        enlarged = to_image(pixels).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        grid[top : top + enlarged.height, left : left + enlarged.width] = np.atleast_3d(np.asarray(enlarged))
    return to_image(grid)

"""Between the pixels of an image, values in [0, 1], and the range [-1, 1] in which models work."""

from __future__ import annotations

import numpy as np


def to_model_range(pixels: np.ndarray) -> np.ndarray:
    """To float32 in [-1, 1], from uint8, or from floats in [0, 1]; any shape."""
    half_range = 127.5 if pixels.dtype == np.uint8 else 0.5
    return np.divide(pixels, half_range, dtype=np.float32) - np.float32(1.0)


def from_model_range(images: np.ndarray) -> np.ndarray:
    """From [-1, 1] to values in [0, 1], clipped; float32, any shape."""
    return np.clip(images / 2 + 0.5, 0.0, 1.0).astype(np.float32)


def to_pixels(values: np.ndarray) -> np.ndarray:
    """From values in [0, 1] to uint8, rounded; any shape."""
    return (values * 255.0).round().astype(np.uint8)

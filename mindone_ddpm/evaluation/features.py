"""Networks that turn pictures into features: the Inception-v3 of the FID literature, and a small one for digits.

A feature network takes uint8 pixels (pictures, height, width, channels) and gives features (pictures, width), float32,
and logits (pictures, classes) where it has classes. What it is, and how it resizes, is part of every figure's name.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

INCEPTION_SIZE = 299  # pixels a side
RESIZES = ("pytorch-fid", "clean")


class FeatureNetwork(Protocol):
    """``identity`` says which network, weights and resize: statistics of another are not compared with."""

    identity: str
    prefix: str  # of the names of its figures
    width: int

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def bilinear_matrix(size: int, new_size: int) -> np.ndarray:
    """What interpolates a row of ``size`` pixels linearly to ``new_size``: float32 of shape (new_size, size).

    Pixel centres are kept, edges repeated, and nothing is averaged when it shrinks: PyTorch's ``bilinear`` with
    ``align_corners=False``.
    """
    places = np.maximum((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0.0)
    left = np.minimum(places.astype(np.int64), size - 1)
    right = np.minimum(left + 1, size - 1)
    share = places - left
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size), left), 1.0 - share)
    np.add.at(matrix, (np.arange(new_size), right), share)
    return matrix.astype(np.float32)


def resize_as_pytorch_fid(pixels: np.ndarray) -> np.ndarray:
    """To (pictures, 3, 299, 299) in [-1, 1], bilinear."""
    _, height, width, _ = pixels.shape
    rows, columns = bilinear_matrix(height, INCEPTION_SIZE), bilinear_matrix(width, INCEPTION_SIZE)
    values = pixels.astype(np.float32).transpose(0, 3, 1, 2) / 255.0
    return 2.0 * (rows @ values @ columns.T) - 1.0


def resize_clean(pixels: np.ndarray) -> np.ndarray:
    """To (pictures, 3, 299, 299) in [-1, 1), bicubic with the shrunk pixels averaged, as clean-fid has it
    (Parmar et al. 2022, section 3)."""

    def resize(plane: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(plane.astype(np.float32))
        return np.asarray(picture.resize((INCEPTION_SIZE, INCEPTION_SIZE), Image.Resampling.BICUBIC)).clip(0, 255)

    planes = [[resize(picture[:, :, channel]) for channel in range(3)] for picture in pixels]
    return (np.array(planes, np.float32) - 128.0) / 128.0


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Grey and RGBA pictures in three channels."""
    return pixels.repeat(3, 3) if pixels.shape[3] == 1 else pixels[:, :, :, :3]

"""What a network for features is, and how images are resized for Inception."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

INCEPTION_SIZE = 299  # pixels a side
RESIZES = ("pytorch-fid", "clean")


class FeatureNetwork(Protocol):
    """A classifier whose hidden features are compared.

    Attributes:
        identity: network, weights and resize method; statistics of another are not comparable.
        prefix: of the names of its metrics; empty for the published network.
        width: of the features.
    """

    identity: str
    prefix: str
    width: int

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From uint8 (images, height, width, channels) to features, float32 of shape (images, width), and logits,
        float32 of shape (images, classes)."""


def bilinear_matrix(size: int, new_size: int) -> np.ndarray:
    """The matrix that interpolates a row of ``size`` pixels linearly to ``new_size``; float32 (new_size, size).

    Pixel centres are aligned, edges repeated, and shrinking is not antialiased: PyTorch's ``bilinear`` with
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
    """From uint8 (images, height, width, 3) to float32 (images, 3, 299, 299) in [-1, 1], bilinear."""
    _, height, width, _ = pixels.shape
    rows, columns = bilinear_matrix(height, INCEPTION_SIZE), bilinear_matrix(width, INCEPTION_SIZE)
    values = pixels.astype(np.float32).transpose(0, 3, 1, 2) / 255.0
    return 2.0 * (rows @ values @ columns.T) - 1.0


def resize_clean(pixels: np.ndarray) -> np.ndarray:
    """From uint8 (images, height, width, 3) to float32 (images, 3, 299, 299) in [-1, 1), bicubic and antialiased, as in
    clean-fid (Parmar et al. 2022, section 3)."""

    def resize(plane: np.ndarray) -> np.ndarray:
        image = Image.fromarray(plane.astype(np.float32))
        return np.asarray(image.resize((INCEPTION_SIZE, INCEPTION_SIZE), Image.Resampling.BICUBIC)).clip(0, 255)

    planes = [[resize(image[:, :, channel]) for channel in range(3)] for image in pixels]
    return (np.array(planes, np.float32) - 128.0) / 128.0


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Grey and RGBA pixels (images, height, width, 1 or 4) in three channels."""
    return pixels.repeat(3, 3) if pixels.shape[3] == 1 else pixels[:, :, :, :3]


class Pixels:
    """No network: the colours of an image of 16x16 pixels; a FeatureNetwork.

    For finding near copies, and for comparing runs on the same data where there are no weights of Inception.
    """

    prefix, width = "pixels_", 16 * 16 * 3
    identity = "16x16 pixels"

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shrunk = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BOX)) for image in as_rgb(pixels)]
        features = np.stack(shrunk).reshape(len(pixels), -1).astype(np.float32) / np.float32(255.0)
        return features, np.zeros((len(pixels), 1), np.float32)

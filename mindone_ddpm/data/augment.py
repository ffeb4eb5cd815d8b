"""Geometric augmentation whose parameters the network is told (Karras et al. 2022, appendix F.2 and table 6).

Each transformation is applied with a probability of its own. What was applied goes to the network as numbers that are
zero where nothing was: at zero, the network makes images as they are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

CONDITION_SIZE = 9
SCALE_STD = 0.2  # of the base-2 logarithm of a scale
TRANSLATION_STD = 0.125  # as a share of the side


class Transform(NamedTuple):
    """A transformation of an image, and what the network is told of it.

    Attributes:
        matrix: from an image's coordinates to those of the transformed one, around its middle, in units of its side;
            float64 of shape (3, 3).
        condition: float32 of shape (CONDITION_SIZE,).
    """

    matrix: np.ndarray
    condition: np.ndarray


def _rotation(angle: float) -> np.ndarray:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def draw_transform(rng: np.random.Generator, probability: float) -> Transform:
    """Draw flips, a scale, a rotation, a stretch in some direction, and a translation; always the same number of
    draws."""
    is_applied = rng.random(6) < probability
    angle, direction = rng.uniform(-math.pi, math.pi, 2)
    scale, stretch = np.exp2(SCALE_STD * rng.standard_normal(2))
    shift = TRANSLATION_STD * rng.standard_normal(2)
    flips, flips_vertically, scales, rotates, stretches, shifts = is_applied
    matrix, condition = np.eye(3), np.zeros(CONDITION_SIZE, np.float32)
    if flips:
        matrix = np.diag([-1.0, 1.0, 1.0]) @ matrix
        condition[0] = 1.0
    if flips_vertically:
        matrix = np.diag([1.0, -1.0, 1.0]) @ matrix
        condition[1] = 1.0
    if scales:
        matrix = np.diag([scale, scale, 1.0]) @ matrix
        condition[2] = math.log2(scale) / SCALE_STD
    if rotates:
        matrix = _rotation(angle) @ matrix
        condition[3:5] = math.cos(angle) - 1.0, math.sin(angle)
    if stretches:
        matrix = _rotation(direction) @ np.diag([stretch, 1.0 / stretch, 1.0]) @ _rotation(-direction) @ matrix
        amount = math.log2(stretch) / SCALE_STD
        condition[5:7] = amount * math.cos(2.0 * direction), amount * math.sin(2.0 * direction)
    if shifts:
        matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]], [0.0, 0.0, 1.0]]) @ matrix
        condition[7:9] = shift / TRANSLATION_STD
    return Transform(matrix, condition)


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Transform an image; what comes from outside is its reflection.

    Args:
        image: [-1, 1], float32 of shape (channels, size, size).
        matrix: of a :class:`Transform`.
    """
    if (matrix == np.eye(3)).all():
        return image
    size = image.shape[-1]
    middle, turn, shift = (size - 1) / 2.0, matrix[:2, :2], matrix[:2, 2]
    # Pixel = size x coordinate + middle. Not by a matrix and its inverse: on small ones LAPACK waits for its threads.
    in_pixels = np.column_stack([turn, size * shift + middle - middle * turn.sum(axis=1)])
    warped = cv2.warpAffine(
        np.ascontiguousarray(image.transpose(1, 2, 0)),
        in_pixels,
        (size, size),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.clip(np.atleast_3d(warped).transpose(2, 0, 1), -1.0, 1.0)

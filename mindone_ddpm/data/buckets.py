"""Aspect-ratio buckets: a few sizes of nearly one area, so that images keep their proportions as far as they can.

The sizes of a bucket's batches are fixed, so each bucket is one compiled graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class AspectBuckets:
    """The sizes, and which of them each image has.

    Attributes:
        sizes: (width, height) in pixels, from the tallest to the widest.
        of_images: int64 of shape (num_samples,), places in ``sizes``.
    """

    sizes: tuple[Size, ...]
    of_images: np.ndarray

    def size_of(self, index: int) -> Size:
        return self.sizes[int(self.of_images[index])]

    def names(self) -> list[str]:
        """Of the sizes, such as ``576x448``: width and height."""
        return [f"{width}x{height}" for width, height in self.sizes]

    def counts(self) -> dict[str, int]:
        """How many images each size has, by its name."""
        return dict(zip(self.names(), np.bincount(self.of_images, minlength=len(self.sizes)).tolist(), strict=True))


def bucket_sizes(resolution: int, step: int, most_aspect_ratio: float) -> list[Size]:
    """Sizes whose sides are multiples of ``step``, from the tallest to the widest: each longer side with the largest
    shorter one that keeps the area within that of the square of side ``resolution``.

    Args:
        most_aspect_ratio: of the longer side to the shorter one.
    """
    square = resolution // step * step
    wide = []
    for width in range(square, int(resolution * math.sqrt(most_aspect_ratio)) + step, step):
        height = resolution**2 // width // step * step
        if height and width / height <= most_aspect_ratio:
            wide.append((width, height))
    tall = [(height, width) for width, height in reversed(wide) if width != height]
    return tall + wide


def fill_buckets(
    image_sizes: Sequence[Size], resolution: int, step: int, most_aspect_ratio: float, most_buckets: int
) -> AspectBuckets:
    """Give each image the size whose aspect ratio is nearest to its own, by the logarithm.

    Where the images need more sizes than ``most_buckets``, those are left out whose images lose least by it.

    Args:
        image_sizes: of the images, (width, height); (0, 0), which is not known, counts as a square.
        resolution, step, most_aspect_ratio: see :func:`bucket_sizes`.
    """
    sizes = bucket_sizes(resolution, step, most_aspect_ratio)
    ratios = np.array([math.log(width / height) if width and height else 0.0 for width, height in image_sizes])
    distances = np.abs(ratios[:, None] - np.array([math.log(width / height) for width, height in sizes]))
    kept = sorted(set(distances.argmin(axis=1).tolist()))
    while len(kept) > most_buckets:
        lost = [distances[:, [k for k in kept if k != left]].min(axis=1).sum() for left in kept]
        del kept[int(np.argmin(lost))]
    return AspectBuckets(tuple(sizes[k] for k in kept), distances[:, kept].argmin(axis=1).astype(np.int64))

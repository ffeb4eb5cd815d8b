"""Where evaluated images come from: a folder, a model, a data set."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.common import files
from mindone_ddpm.config.values import GRID_FILE, TRAJECTORY_STRIP
from mindone_ddpm.data.batching import pad_batch
from mindone_ddpm.data.images import IMAGE_ENDINGS, DataError, convert_channels, decode_image
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.scaling import to_pixels
from mindone_ddpm.data.streaming import StreamedRecords
from mindone_ddpm.sampling import generate

# Gives the images with the given ids, uint8 of shape (images, height, width, channels).
ImageSource = Callable[[list[int]], np.ndarray]


class ImageFolder:
    """The images of a folder in the order of their names, all of one size; an ImageSource.

    Args:
        flag: to name in errors.

    Raises:
        DataError: there are no images; or, when they are read, one is damaged or of another size.
    """

    def __init__(self, folder: str, flag: str):
        self.flag = flag
        self.paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
        self.paths = [path for path in self.paths if path.name not in (GRID_FILE, TRAJECTORY_STRIP)]
        if not self.paths:
            raise DataError(f"{flag} {folder}: there are no images in it")
        self.shape = self.read(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    @functools.cached_property
    def content(self) -> str:
        """A hash of the images' files."""
        return hashlib.sha256("".join(map(files.sha256_of, self.paths)).encode()).hexdigest()

    def read(self, path: Path) -> np.ndarray:
        """uint8 of shape (height, width, 1 or 3)."""
        image = decode_image(None, str(path), str(path))
        pixels = np.asarray(convert_channels(image, 1 if image.mode in ("L", "1", "I;16", "I") else 3))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def __call__(self, image_ids: list[int]) -> np.ndarray:
        images = []
        for image_id in image_ids:
            pixels = self.read(self.paths[image_id])
            if pixels.shape != self.shape:
                raise DataError(
                    f"{self.flag}: {self.paths[image_id]} is {_size(pixels.shape)}, but {self.paths[0]} is "
                    f"{_size(self.shape)}; all must be the same"
                )
            images.append(pixels)
        return np.stack(images)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} with {shape[2]} channel(s)"


def generated_images(
    unet: Any, scheduler: Any, labels: list[int] | None, batch_size: int, **settings: Any
) -> ImageSource:
    """The images of a model; each depends on the seed and its id alone.

    Args:
        labels: the class of each image; None for a model without classes.
        batch_size: at most so many ids are asked for at once.
        settings: the other arguments of :func:`mindone_ddpm.sampling.generate.generate`.
    """

    def source(image_ids: list[int]) -> np.ndarray:
        padded = pad_batch(image_ids, batch_size)  # to one size, so that the last batch compiles nothing again
        chosen = None if labels is None else [labels[image_id] for image_id in padded]
        values = generate.generate(unet, scheduler, sample_ids=padded, batch_size=batch_size, labels=chosen, **settings)
        return to_pixels(values)[: len(image_ids)]

    return source


def record_images(records: ImageRecords) -> tuple[ImageSource, int, str]:
    """The images of a data set as the model sees them, their number, and a text that identifies them."""

    def source(image_ids: list[int]) -> np.ndarray:
        images = np.stack([records.image(image_id) for image_id in image_ids]).transpose(0, 2, 3, 1)
        return images if images.dtype == np.uint8 else to_pixels(images)

    shape = (records.size, records.channels, records.resize_mode, records.interpolation, records.precise)
    stream = (records.seed, records.buffer_size) if isinstance(records, StreamedRecords) else ()
    return source, len(records), f"data set {records.fingerprint(most=len(records))}, {shape + stream}"

"""Images in, batches out.

An :class:`ImageRecords` is a Hugging Face data set seen as pictures of one size; :func:`make_loader` feeds it to
MindSpore through a ``GeneratorDataset`` whose items are whole batches. What a batch holds is a function of the seed
and of its number alone: the order of an epoch, the flips, the noise and the timesteps come from counter-based
generators keyed by the position of a sample in the run, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_ddpm.data.images import (
    DataError,
    content_digest,
    convert_channels,
    convert_precise_channels,
    decode_image,
    decode_precise,
    resize,
)
from mindone_ddpm.data.labels import Labels
from mindone_ddpm.data.randomness import epoch_order


@dataclass
class ImageRecords:
    """A data set seen as pictures: ``picture(i, crop_at)`` gives pixels of shape (channels, size, size).

    They are uint8 or, with ``precise``, float32 in [0, 1].
    """

    dataset: Any
    column: str
    size: int
    channels: int
    resize_mode: str
    random_crop: bool
    random_flip: bool
    interpolation: str = "bilinear"
    random_vertical_flip: bool = False
    precise: bool = False
    labels: Labels | None = None
    cached: np.ndarray | None = None
    held_out: ImageRecords | None = None  # not trained on; see open_records

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def half_range(self) -> float:
        """What divides a pixel, before 1 is taken away, to bring it to [-1, 1]."""
        return 0.5 if self.precise else 127.5

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of an epoch's samples, in the order they come; int64 of shape (num_samples,)."""
        return epoch_order(seed, epoch, len(self))

    def record(self, index: int) -> dict[str, Any]:
        return self.dataset[int(index)]

    def label(self, index: int) -> int:
        """The class of a picture."""
        assert self.labels is not None and self.labels.numbers is not None
        return int(self.labels.numbers[index])

    def _stored(self, index: int) -> tuple[bytes | None, str | None, str]:
        image = self.record(index)[self.column]
        if image is None or (image.get("bytes") is None and image.get("path") is None):
            raise DataError(f"image {index} of the data set, column '{self.column}': is missing")
        where = image.get("path") or f"image {index} of the data set, column '{self.column}'"
        return image.get("bytes"), image.get("path"), where

    def original(self, index: int) -> Image.Image:
        """The picture as it is stored, upright."""
        return decode_image(*self._stored(index))

    def image(self, index: int, crop_at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
        if self.cached is not None:
            return self.cached[index]
        if not self.random_crop:
            crop_at = (0.5, 0.5)
        if self.precise:
            values = convert_precise_channels(decode_precise(*self._stored(index)), self.channels)
            planes = [Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(self.channels)]
            resized = [resize(plane, self.size, self.resize_mode, crop_at, self.interpolation) for plane in planes]
            return np.clip(np.stack([np.asarray(plane) for plane in resized]), 0.0, 1.0)
        picture = convert_channels(self.original(index), self.channels)
        pixels = np.asarray(resize(picture, self.size, self.resize_mode, crop_at, self.interpolation), dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def augmented_image(self, index: int, generator: np.random.Generator) -> np.ndarray:
        """The picture as one sample of an epoch sees it, flipped and cropped by three draws, in [-1, 1] as float32."""
        horizontal, vertical, crop_at = self.draw_augmentation(generator)
        image = self.image(index, crop_at)
        if horizontal:
            image = image[:, :, ::-1]
        if vertical:
            image = image[:, ::-1]
        return self.scaled(image)

    def draw_augmentation(self, rng: np.random.Generator) -> tuple[bool, bool, tuple[float, float]]:
        """Whether a sample is flipped left to right, whether upside down, and where it is cropped."""
        flip, across, down = rng.random(3)
        vertical = self.random_vertical_flip and rng.random() < 0.5
        return self.random_flip and flip < 0.5, vertical, (across, down)

    def scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as :meth:`image` gives them, brought to [-1, 1], float32."""
        return np.divide(pixels, self.half_range, dtype=np.float32) - np.float32(1.0)

    def cache(self, limit_mib: int, show_progress: bool) -> None:
        """Decode every picture once and keep it, if the pictures fit and do not change from epoch to epoch."""
        dtype = np.dtype(np.float32 if self.precise else np.uint8)
        num_bytes = len(self) * self.channels * self.size**2 * dtype.itemsize
        if self.random_crop or num_bytes > limit_mib * 2**20:
            return
        cached = np.empty((len(self), self.channels, self.size, self.size), dtype=dtype)
        indices = tqdm(range(len(self)), desc="reading images", unit="img", disable=not show_progress, leave=False)
        for index in indices:
            cached[index] = self.image(index)
        self.cached = cached

    def fingerprint(self, most: int = 32) -> str:
        """Names the pictures by what they hold, not by where they lie: of up to ``most`` of them, evenly spread."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in np.linspace(0, len(self) - 1, num=min(most, len(self))).astype(int):
            digest.update(content_digest(self.record(int(index))[self.column] or {}))
        return digest.hexdigest()[:16]

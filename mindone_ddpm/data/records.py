"""A Hugging Face data set as images of one size, cropped and flipped as training wants them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_ddpm.common.randomness import epoch_order
from mindone_ddpm.config.groups import MAX_IMAGE_PIXELS
from mindone_ddpm.data.buckets import AspectBuckets
from mindone_ddpm.data.images import (
    content_digest,
    convert_channels,
    convert_precise_channels,
    crop_corner,
    decode_image,
    decode_precise,
    oriented_size,
    resize,
    size_before_crop,
    stored_image,
)
from mindone_ddpm.data.labels import Labels
from mindone_ddpm.data.scaling import to_model_range


class Samples(Protocol):
    """What decides the samples of an epoch.

    Attributes:
        groups: which group each sample belongs to, int64 of shape (len(self),): a batch holds samples of one group.
            None: any may be together.
    """

    @property
    def groups(self) -> np.ndarray | None: ...

    def __len__(self) -> int:
        """How many an epoch has."""

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of an epoch's samples in their order, int64 of shape (len(self),)."""

    def fingerprint(self) -> str:
        """A digest of their content."""


class Augmentation(NamedTuple):
    """How one sample of an epoch is changed. ``crop_at``: see :func:`mindone_ddpm.data.images.resize`."""

    flip_horizontally: bool
    flip_vertically: bool
    crop_at: tuple[float, float]


@dataclass
class ImageRecords:
    """A data set as images of one size, or of a few.

    Attributes:
        dataset: a Hugging Face data set; its column ``column`` holds images that are not decoded.
        size: side of the square images in pixels.
        buckets: other sizes, near their own proportions; None: all are square.
        channels: 1 grey, 3 RGB, 4 RGBA.
        resize_mode, interpolation: see :func:`mindone_ddpm.data.images.resize`.
        random_crop, random_flip, random_vertical_flip: which augmentations are used.
        precise: images are float32 in [0, 1], not rounded to 8 bits.
        cached: all images, of shape (num_samples, channels, size, size), once :meth:`cache` has decoded them.
        held_out: images that are not trained on.
        max_pixels: an image that has more is refused.
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
    held_out: ImageRecords | None = None
    max_pixels: int = MAX_IMAGE_PIXELS
    buckets: AspectBuckets | None = None
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)  # see geometry

    def __len__(self) -> int:
        return len(self.dataset)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of an epoch's samples in their order, int64 of shape (num_samples,)."""
        return epoch_order(seed, epoch, len(self))

    @property
    def groups(self) -> np.ndarray | None:
        return None if self.buckets is None else self.buckets.of_images

    def record(self, index: int) -> dict[str, Any]:
        """A row of the data set; its image is not decoded."""
        return self.dataset[int(index)]

    def label(self, index: int) -> int:
        """The class of an image, an index into ``labels.names``."""
        assert self.labels is not None and self.labels.class_ids is not None
        return int(self.labels.class_ids[index])

    def _stored(self, index: int) -> tuple[bytes | None, str | None, str]:
        return stored_image(self.record(index)[self.column], index, self.column)

    def original(self, index: int) -> Image.Image:
        """An image as it is stored, oriented as its EXIF data says. Raises DataError if it cannot be decoded."""
        return decode_image(*self._stored(index), self.max_pixels)

    def size_of(self, index: int) -> tuple[int, int]:
        """Width and height in pixels in which an image is trained on."""
        return (self.size, self.size) if self.buckets is None else self.buckets.size_of(index)

    def image(
        self, index: int, crop_at: tuple[float, float] = (0.5, 0.5), size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """An image: uint8, or float32 in [0, 1] if ``precise``, of shape (channels, height, width).

        Args:
            crop_at: where it is cropped if ``random_crop``, by default in the middle.
            size: width and height; by default :meth:`size_of` the image.

        Raises:
            DataError: it cannot be decoded; the message names it.
        """
        if self.cached is not None:
            return self.cached[index]
        size = self.size_of(index) if size is None else size
        if not self.random_crop:
            crop_at = (0.5, 0.5)
        if self.precise:
            values = convert_precise_channels(decode_precise(*self._stored(index), self.max_pixels), self.channels)
            planes = [Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(self.channels)]
            resized = [resize(plane, size, self.resize_mode, crop_at, self.interpolation) for plane in planes]
            return np.clip(np.stack([np.asarray(plane) for plane in resized]), 0.0, 1.0)
        image = convert_channels(self.original(index), self.channels)
        pixels = np.asarray(resize(image, size, self.resize_mode, crop_at, self.interpolation), dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def draw_augmentation(self, rng: np.random.Generator) -> Augmentation:
        """Draw a sample's augmentation: three numbers, and a fourth with ``random_vertical_flip``."""
        flip, across, down = rng.random(3)
        flips_vertically = self.random_vertical_flip and rng.random() < 0.5
        return Augmentation(self.random_flip and bool(flip < 0.5), bool(flips_vertically), (across, down))

    def augmented_image(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """An image as one sample of an epoch, in [-1, 1], float32 of shape (channels, height, width).

        ``rng``: of the sample; see :meth:`draw_augmentation`.
        """
        return self.augmented(index, self.draw_augmentation(rng))

    def augmented(self, index: int, augmentation: Augmentation, size: tuple[int, int] | None = None) -> np.ndarray:
        """An image as that augmentation makes it; see :meth:`augmented_image`. ``size``: see :meth:`image`."""
        image = self.image(index, augmentation.crop_at, size)
        if augmentation.flip_horizontally:
            image = image[:, :, ::-1]
        if augmentation.flip_vertically:
            image = image[:, ::-1]
        return to_model_range(image)

    def stored_size(self, index: int) -> tuple[int, int]:
        """Width and height of an image as it is stored, in pixels, oriented as its EXIF data says; (0, 0) where it
        cannot be read."""
        if index not in self._sizes:
            content, path, _ = self._stored(index)
            self._sizes[index] = oriented_size(content, path)
        return self._sizes[index]

    def geometry(
        self, index: int, augmentation: Augmentation, size: tuple[int, int] | None = None
    ) -> tuple[int, int, int, int]:
        """Height and width of an image as it is stored, then top and left of its crop after resizing, in pixels."""
        width, height = self.stored_size(index)
        if self.resize_mode != "crop" or not width:
            return height, width, 0, 0
        size = self.size_of(index) if size is None else size
        crop_at = augmentation.crop_at if self.random_crop else (0.5, 0.5)
        covering = size_before_crop((width, height), size)
        left, top = crop_corner(covering, size, crop_at)
        # The crop's place in the flipped image.
        left = covering[0] - size[0] - left if augmentation.flip_horizontally else left
        top = covering[1] - size[1] - top if augmentation.flip_vertically else top
        return height, width, top, left

    def cache(self, limit_mib: int, show_progress: bool) -> None:
        """Decode all images once and keep them in memory, if they fit into ``limit_mib`` and are all cropped the same.

        Raises:
            DataError: an image cannot be decoded; the message names it.
        """
        dtype = np.dtype(np.float32 if self.precise else np.uint8)
        num_bytes = len(self) * self.channels * self.size**2 * dtype.itemsize
        if self.random_crop or self.buckets is not None or num_bytes > limit_mib * 2**20:
            return
        cached = np.empty((len(self), self.channels, self.size, self.size), dtype=dtype)
        indices = tqdm(range(len(self)), desc="reading images", unit="img", disable=not show_progress, leave=False)
        for index in indices:
            cached[index] = self.image(index)
        self.cached = cached

    def fingerprint(self, most: int = 32) -> str:
        """A digest of the content, not the location, of up to ``most`` images, evenly spread over the data set."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in np.linspace(0, len(self) - 1, num=min(most, len(self))).astype(int):
            digest.update(content_digest(self.record(int(index))[self.column] or {}))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class RepeatedSamples:
    """Images that an epoch goes through several times. Index ``i`` is image ``i % len(records)``."""

    records: ImageRecords
    repeats: int

    def __len__(self) -> int:
        return len(self.records) * self.repeats

    @property
    def groups(self) -> np.ndarray | None:
        return None

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return epoch_order(seed, epoch, len(self))

    def fingerprint(self) -> str:
        return self.records.fingerprint()


@dataclass(frozen=True)
class GroupedSamples:
    """The samples of another data set, in groups; see :class:`Samples`."""

    samples: Samples
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return self.samples.order(seed, epoch)

    def fingerprint(self) -> str:
        return self.samples.fingerprint()

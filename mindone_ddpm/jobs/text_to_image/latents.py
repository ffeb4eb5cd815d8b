"""Outputs of the frozen networks: inside the compiled step, or computed once over the data and cached on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from tqdm import tqdm

from mindone_ddpm.common.files import added_files, cache_dir
from mindone_ddpm.data.batching import in_batches, map_batches
from mindone_ddpm.data.buckets import Size
from mindone_ddpm.data.images import content_digest
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.scaling import to_model_range
from mindone_ddpm.jobs.text_to_image.captions import Captions
from mindone_ddpm.jobs.text_to_image.config import FineTuneConfig
from mindone_ddpm.models.pipelines import is_xl, text_encoders
from mindone_ddpm.models.text_encoder import PooledEmbedding

IMAGES_AT_ONCE, TEXTS_AT_ONCE = 16, 4  # at most; the second encoder of XL takes some 0.3 GB for a text
MOST_PIXELS_AT_ONCE = 512 * 512 * 4  # by the autoencoder, which takes some 5 KiB of memory for each in float32
MOMENTS = ("means", "deviations")
EMBEDDINGS = "embeddings.npy"
COMPLETE = "complete"  # written last where there are no embeddings


class LatentMoments(nn.Cell):
    """Mean and standard deviation of the autoencoder's posterior, scaled (Rombach et al. 2022, section D.1)."""

    def __init__(self, vae: Any):
        super().__init__(auto_prefix=False)
        self.vae = vae
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(vae.config.shift_factor or 0.0)

    def construct(self, images):
        """Each float32 of shape (batch, latent channels, height, width)."""
        moments = self.vae.encode(images)[0].astype(ms.float32)
        mean, log_variance = ops.chunk(moments, 2, 1)
        deviation = ops.exp(0.5 * ops.clamp(log_variance, -30.0, 20.0))
        return (mean - self.shift) * self.scale, deviation * self.scale


class InferenceCell(nn.Cell):
    """A cell that ``set_train`` of the train step does not reach: it would make a text encoder drop attention."""

    def add_flags_recursive(self, **flags):
        if "training" in flags:
            flags["training"] = False
        return super().add_flags_recursive(**flags)


class FrozenLatents(InferenceCell):
    """(images, posterior noise) to latents, without gradients."""

    def __init__(self, vae: Any):
        super().__init__(auto_prefix=False)
        self.moments = LatentMoments(vae)
        self.set_train(False)

    def construct(self, images, posterior_noise):
        mean, deviation = self.moments(images)
        return ops.stop_gradient(mean + deviation * posterior_noise)


class TextEmbeddings(InferenceCell):
    """Tokens to (text embeddings, pooled embeddings); without gradients, unless something of a text encoder trains.

    Stable Diffusion has one text encoder, of which the last layer is taken, and pools nothing: the embeddings are
    returned twice. Of XL's two text encoders the last layer but one is taken, and the second one pools (Podell et al.
    2023, section 2.1).
    """

    def __init__(self, base: Any, trains: bool):
        super().__init__(auto_prefix=False)
        self.text_encoder = base.text_encoder
        self.text_encoder_2: Any = base.text_encoder_2 if is_xl(base) else None
        self.pool: Any = PooledEmbedding(base.text_encoder_2) if is_xl(base) else None
        self.trains = trains
        self.set_train(False)

    def construct(self, tokens, tokens_2=None):
        if self.text_encoder_2 is None:
            embeddings = self.text_encoder(tokens)[0]
            pooled = embeddings
        else:
            second = self.text_encoder_2(tokens_2, output_hidden_states=True)
            first = self.text_encoder(tokens, output_hidden_states=True)[-1][-2]
            embeddings, pooled = ops.cat((first, second[-1][-2]), -1), self.pool(tokens_2, second[1])
        if not self.trains:
            embeddings, pooled = ops.stop_gradient(embeddings), ops.stop_gradient(pooled)
        return embeddings, pooled


def flip_variants(records: ImageRecords) -> list[tuple[bool, bool]]:
    """(horizontal, vertical) of every way in which training may flip an image; the first is not flipped."""
    across = (False, True) if records.random_flip else (False,)
    down = (False, True) if records.random_vertical_flip else (False,)
    return [(horizontal, vertical) for vertical, horizontal in itertools.product(down, across)]


Entry = tuple[int, Size]  # an image, and the size in which it is encoded


class LatentCache:
    """Means and deviations of images in each of their flip variants, and the embedding of every caption where the text
    encoder is frozen.

    They are memory-mapped ``.npy`` files in a folder named by a digest of all that they depend on: another image,
    caption, weight or setting gives another folder.

    Args:
        entries: which images are encoded in which sizes.
    """

    def __init__(self, folder: Path, records: ImageRecords, captions: Captions, entries: Sequence[Entry]):
        self.records = records
        by_size = images_by_size(entries)
        self.moments = {
            size: [np.load(folder / moments_file(name, size), mmap_mode="r") for name in MOMENTS] for size in by_size
        }
        self.place_of_entry = {
            (image, size): place for size, images in by_size.items() for place, image in enumerate(images)
        }
        self.texts: dict[str, np.ndarray] = {}  # without those of a text encoder that trains
        for name in ("embeddings", "pooled"):
            if (folder / f"{name}.npy").exists():
                self.texts[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        self.place_of_text = {text: number for number, text in enumerate(captions.all_texts)}
        self.place_of_variant = {variant: number for number, variant in enumerate(flip_variants(records))}

    def latents(
        self, images: Sequence[int], size: Size, flips: Sequence[tuple[bool, bool]], posterior_noise: np.ndarray
    ) -> np.ndarray:
        """Latents like ``posterior_noise``, float32 (batch, channels, height, width).

        Args:
            size: of the images, (width, height) in pixels.
            flips: (horizontal, vertical) of each image.
        """
        variants = np.array([self.place_of_variant[flip] for flip in flips])
        places = np.array([self.place_of_entry[image, size] for image in images])
        means, deviations = self.moments[size]
        return means[variants, places] + deviations[variants, places] * posterior_noise

    def embeddings(self, texts: Sequence[str], name: str = "embeddings") -> np.ndarray:
        """Float32 of shape (batch, tokens, features), or for ``pooled`` (batch, features)."""
        return self.texts[name][[self.place_of_text[text] for text in texts]]

    @staticmethod
    def open(
        config: FineTuneConfig,
        records: ImageRecords,
        captions: Captions,
        base: Any,
        show_progress: bool,
        entries: Sequence[Entry],
        with_texts: bool = True,
    ) -> LatentCache:
        """Load what is on disk, or compute it.

        Args:
            entries: which images are encoded in which sizes.
            with_texts: the embeddings too.
        """
        root = cache_dir() if config.cache_dir is None else Path(config.cache_dir).expanduser() / "mindone_ddpm"
        folder = root / "latents" / cache_key(config, records, captions, base, with_texts, entries)
        last = EMBEDDINGS if with_texts else COMPLETE
        if not (folder / last).exists():
            with added_files(folder, last=last) as tmp_path:
                _encode_images(tmp_path, records, base.vae, show_progress, entries)
                if with_texts:
                    _encode_texts(tmp_path, captions, base)
                else:
                    (tmp_path / COMPLETE).touch()
        return LatentCache(folder, records, captions, entries)


def images_by_size(entries: Sequence[Entry]) -> dict[Size, list[int]]:
    """The images of each size, in ascending order."""
    found: dict[Size, list[int]] = {}
    for image, size in sorted(set(entries)):
        found.setdefault(size, []).append(image)
    return found


def moments_file(name: str, size: Size) -> str:
    return f"{name}-{size[0]}x{size[1]}.npy"


def cache_key(
    config: FineTuneConfig,
    records: ImageRecords,
    captions: Captions,
    base: Any,
    with_texts: bool = True,
    entries: Sequence[Entry] | None = None,
) -> str:
    """A digest of all that the cached values depend on. ``entries``: by default each image in its own size."""
    if entries is None:
        entries = [(image, records.size_of(image)) for image in range(len(records))]
    digest = hashlib.sha256()
    settings: dict[str, Any] = {
        "entries": sorted(set(entries)),
        "resize": [records.resize_mode, records.interpolation],
        "flip": records.random_flip,
        **({"vertical_flip": True} if records.random_vertical_flip else {}),
        "precision": config.mixed_precision,
        "scale": base.vae.config.scaling_factor,
    }
    if with_texts:
        settings["texts"] = captions.all_texts
        some = captions.all_texts[:64]
        settings["tokens"] = [captions.tokens(some, which).tolist() for which in range(len(captions.tokenizers))]
    digest.update(json.dumps(settings).encode())
    for index in range(len(records)):
        digest.update(content_digest(records.record(index)[records.column]))
    for network in (base.vae, *(text_encoders(base).values() if with_texts else ())):
        for name, parameter in network.parameters_and_names():
            digest.update(name.encode())
            digest.update(parameter.asnumpy().tobytes())
    return digest.hexdigest()[:32]


def _encode_images(
    folder: Path, records: ImageRecords, vae: Any, show_progress: bool, entries: Sequence[Entry]
) -> None:
    moments = LatentMoments(vae).set_train(False)
    variants, by_size = flip_variants(records), images_by_size(entries)
    total = len(variants) * sum(len(images) for images in by_size.values())
    with tqdm(total=total, desc="caching latents", unit="img", disable=not show_progress) as bar:
        for size, images in by_size.items():
            arrays: list[Any] = []
            done = 0
            at_once = min(len(images), IMAGES_AT_ONCE, max(1, MOST_PIXELS_AT_ONCE // (size[0] * size[1])))
            for batch, count in in_batches(images, at_once):
                upright = np.stack([records.image(image, size=size) for image in batch])
                for variant, (horizontal, vertical) in enumerate(variants):
                    pixels = upright[..., ::-1] if horizontal else upright
                    pixels = pixels[..., ::-1, :] if vertical else pixels
                    made = [value.asnumpy() for value in moments(ms.Tensor(to_model_range(pixels)))]
                    if not arrays:
                        shape = (len(variants), len(images), *made[0].shape[1:])
                        files = [folder / moments_file(name, size) for name in MOMENTS]
                        arrays = [np.lib.format.open_memmap(path, "w+", np.float32, shape) for path in files]
                    for array, values in zip(arrays, made, strict=True):
                        array[variant, done : done + count] = values[:count]
                    bar.update(count)
                done += count
            for array in arrays:
                array.flush()


def _encode_texts(folder: Path, captions: Captions, base: Any) -> None:
    cell = TextEmbeddings(base, trains=False)

    def embed(texts: list[str]) -> list[np.ndarray]:
        tokens = [ms.Tensor(captions.tokens(texts, which)) for which in range(len(captions.tokenizers))]
        return [values.asnumpy().astype(np.float32) for values in cell(*tokens)]

    texts = captions.all_texts
    at_once = min(len(texts), TEXTS_AT_ONCE)
    # The pooled ones first: where the others are, all are.
    if is_xl(base):
        np.save(folder / "pooled.npy", map_batches(lambda part: embed(part)[1], texts, at_once))
    np.save(folder / EMBEDDINGS, map_batches(lambda part: embed(part)[0], texts, at_once))

"""What the frozen networks answer: inside the compiled step, or once over the data and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from tqdm import tqdm

from mindone_ddpm.common.files import added_files, cache_dir
from mindone_ddpm.data.images import content_digest
from mindone_ddpm.data.randomness import batch_places
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.text_to_image.captions import Captions
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig

BATCH = 16


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


class FrozenLatents(nn.Cell):
    """(images, posterior noise, tokens) to (latents, text embeddings), without gradients."""

    def __init__(self, vae: Any, text_encoder: Any):
        super().__init__(auto_prefix=False)
        self.moments = LatentMoments(vae)
        self.text_encoder = text_encoder

    def construct(self, images, posterior_noise, tokens):
        mean, deviation = self.moments(images)
        embeddings = self.text_encoder(tokens)[0]
        return ops.stop_gradient(mean + deviation * posterior_noise), ops.stop_gradient(embeddings)


class LatentCache:
    """Means and deviations of every image (and of its mirror image), and the embedding of every caption.

    They lie in ``.npy`` files that are mapped into memory, in a folder whose name is a digest of all that they depend
    on: another image, caption, weight or setting gives another folder.
    """

    def __init__(self, folder: Path, captions: Captions):
        self.means = np.load(folder / "means.npy", mmap_mode="r")
        self.deviations = np.load(folder / "deviations.npy", mmap_mode="r")
        self.texts = np.load(folder / "embeddings.npy", mmap_mode="r")
        self.place_of = {text: number for number, text in enumerate(captions.all_texts)}

    def latents(self, indices: np.ndarray, flips: Sequence[bool], posterior_noise: np.ndarray) -> np.ndarray:
        """Latents like ``posterior_noise``, float32 (batch, channels, height, width)."""
        flipped = np.asarray(flips, int)
        return self.means[flipped, indices] + self.deviations[flipped, indices] * posterior_noise

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 of shape (batch, tokens, features)."""
        return self.texts[[self.place_of[text] for text in texts]]

    @staticmethod
    def open(
        config: TextToImageConfig, records: ImageRecords, captions: Captions, base: Any, show_progress: bool
    ) -> LatentCache:
        """Take up what is on disk, or make it."""
        root = cache_dir() if config.cache_dir is None else Path(config.cache_dir).expanduser() / "mindone_ddpm"
        folder = root / "latents" / cache_key(config, records, captions, base)
        if not (folder / "embeddings.npy").exists():
            with added_files(folder, last="embeddings.npy") as tmp_path:
                _fill(tmp_path, records, captions, base, show_progress)
        return LatentCache(folder, captions)


def cache_key(config: TextToImageConfig, records: ImageRecords, captions: Captions, base: Any) -> str:
    """A digest of all that the cached values depend on."""
    digest = hashlib.sha256()
    settings = {
        "size": records.size,
        "resize": [records.resize_mode, records.interpolation],
        "flip": records.random_flip,
        "precision": config.mixed_precision,
        "scale": base.vae.config.scaling_factor,
        "texts": captions.all_texts,
        "tokens": captions.tokens(captions.all_texts[:64]).tolist(),
    }
    digest.update(json.dumps(settings).encode())
    for index in range(len(records)):
        digest.update(content_digest(records.record(index)[records.column]))
    for network in (base.vae, base.text_encoder):
        for name, parameter in network.parameters_and_names():
            digest.update(name.encode())
            digest.update(parameter.asnumpy().tobytes())
    return digest.hexdigest()[:32]


def _fill(folder: Path, records: ImageRecords, captions: Captions, base: Any, show_progress: bool) -> None:
    moments = LatentMoments(base.vae).set_train(False)
    mirrors = 2 if records.random_flip else 1
    total = mirrors * len(records)
    with tqdm(total=total, desc="caching latents", unit="img", disable=not show_progress) as bar:
        arrays: list[Any] = []
        for mirror in range(mirrors):
            for start in range(0, len(records), BATCH):
                pictures = np.stack([records.picture(index) for index in batch_places(start, BATCH, len(records))])
                pictures = pictures[..., ::-1] if mirror else pictures
                images = pictures.astype(np.float32) / records.half_range - 1.0
                made = [value.asnumpy() for value in moments(ms.Tensor(images))]
                if not arrays:
                    shape = (mirrors, len(records), *made[0].shape[1:])
                    arrays = [
                        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
                        for name in ("means", "deviations")
                    ]
                count = min(BATCH, len(records) - start)
                for array, values in zip(arrays, made, strict=True):
                    array[mirror, start : start + count] = values[:count]
                bar.update(count)
        for array in arrays:
            array.flush()
        texts = captions.all_texts
        embeddings = []
        for start in range(0, len(texts), BATCH):
            group = [texts[place] for place in batch_places(start, BATCH, len(texts))]
            embedded = base.text_encoder(ms.Tensor(captions.tokens(group)))[0].asnumpy().astype(np.float32)
            embeddings.append(embedded[: len(texts) - start])
        np.save(folder / "embeddings.npy", np.concatenate(embeddings))

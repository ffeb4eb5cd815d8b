"""Measure a model, or a folder of pictures, against real pictures: sample, look, gather, merge, compare."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common import files
from mindone_ddpm.common.files import cache_dir, unwritable
from mindone_ddpm.data.images import IMAGE_ENDINGS, DataError, convert_channels, decode_image
from mindone_ddpm.data.randomness import batch_places
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.scaling import to_pixels
from mindone_ddpm.data.streaming import StreamedRecords
from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.features import FeatureNetwork
from mindone_ddpm.evaluation.metrics import Statistics, load_if_whole, save_statistics
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling import generate
from mindone_ddpm.sampling.images import TRAJECTORY_STRIP

SAVE_EVERY_S = 30.0  # of sampling that an interruption may cost


# What the figures of other features than Inception's are called, so that nobody takes them for the published ones.
OTHER_NAMES = {"fid": "frechet_distance", "kid": "kernel_distance", "kid_std": "kernel_distance_std"}


# Gives the pixels, uint8 (pictures, height, width, channels), of pictures by their numbers.
Source = Callable[[list[int]], np.ndarray]


class Folder:
    """The pictures of a folder, in the order of their names, all of one size."""

    def __init__(self, folder: str, flag: str):
        self.flag = flag
        self.paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
        self.paths = [path for path in self.paths if path.name not in ("grid.png", TRAJECTORY_STRIP)]
        if not self.paths:
            raise DataError(f"{flag} {folder}: there are no pictures in it")
        self.shape = self.read(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    @functools.cached_property
    def content(self) -> str:
        """Names the pictures by what they hold."""
        return hashlib.sha256("".join(map(files.sha256_of, self.paths)).encode()).hexdigest()

    def read(self, path: Path) -> np.ndarray:
        picture = decode_image(None, str(path), str(path))
        pixels = np.asarray(convert_channels(picture, 1 if picture.mode in ("L", "1", "I;16", "I") else 3))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def __call__(self, numbers: list[int]) -> np.ndarray:
        pictures = []
        for number in numbers:
            pixels = self.read(self.paths[number])
            if pixels.shape != self.shape:
                raise DataError(
                    f"{self.flag}: {self.paths[number]} is {_size(pixels.shape)}, but {self.paths[0]} is "
                    f"{_size(self.shape)}; all must be the same"
                )
            pictures.append(pixels)
        return np.stack(pictures)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} with {shape[2]} channel(s)"


def sampled(unet: Any, scheduler: Any, labels: list[int] | None, batch_size: int, **settings: Any) -> Source:
    """The pictures of a model; each depends on the seed and its number only.

    ``labels`` are those of all pictures; ``settings`` are what :func:`generate.generate` takes beside them.
    """

    def pictures(numbers: list[int]) -> np.ndarray:
        # Filled up to the batch size, so that nothing is compiled anew for the last batch.
        filled = [numbers[place] for place in batch_places(0, batch_size, len(numbers))]
        chosen = None if labels is None else [labels[number] for number in filled]
        values = generate.generate(unet, scheduler, sample_ids=filled, batch_size=batch_size, labels=chosen, **settings)
        return to_pixels(values)[: len(numbers)]

    return pictures


def look(network: FeatureNetwork, pixels: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits; the last batch is filled up, so that the network keeps its shape."""
    features, logits = network(pixels[batch_places(0, batch_size, len(pixels))])
    return features[: len(pixels)], logits[: len(pixels)]


def rank_batches(runtime: Runtime, count: int, batch_size: int) -> Iterator[list[int]]:
    """This rank's share of the numbers, batch by batch: every batch goes to the next rank in turn.

    As many on every rank, so that the ranks may meet at each; the last may be empty.
    """
    for start_of_round in range(0, count, runtime.world_size * batch_size):
        first = start_of_round + runtime.rank * batch_size
        yield list(range(first, min(first + batch_size, count)))


class Gathering:
    """Statistics of one side, gathered by this rank, and kept in a file so that an interruption costs little."""

    def __init__(self, network: FeatureNetwork, wanted: list[str], keeps_features: bool, path: Path | None, what: str):
        self.network, self.path, self.what = network, path, what
        self.with_logits = "inception_score" in wanted
        self.statistics = Statistics(network.width, keeps_features or metrics.keeps_features(wanted))
        self.done = 0
        kept = None if path is None else load_if_whole(path)
        if kept is not None and kept[1].get("what") == what:
            self.statistics, self.done = kept[0], kept[1]["batches"]

    def save(self) -> None:
        if self.path is not None:
            save_statistics(self.statistics, {"what": self.what, "batches": self.done}, self.path)

    def run(
        self,
        source: Source,
        count: int,
        batch_size: int,
        runtime: Runtime,
        text: str,
        on_batch: Callable[[], object] = lambda: None,
    ) -> Statistics:
        """Look at all pictures; what all ranks have gathered together.

        ``on_batch`` is called before each batch, equally often on every rank.
        """
        shares = list(rank_batches(runtime, count, batch_size))
        bar = tqdm(
            total=sum(map(len, shares)),
            initial=sum(map(len, shares[: self.done])),
            desc=text,
            unit="img",
            dynamic_ncols=True,
            disable=not runtime.is_main,
        )
        saved_at = time.monotonic()
        with bar:
            try:
                for numbers in shares[self.done :]:
                    on_batch()
                    if numbers:
                        features, logits = look(self.network, source(numbers), batch_size)
                        self.statistics.add(features, logits if self.with_logits else None, numbers, count)
                    self.done += 1
                    bar.update(len(numbers))
                    if time.monotonic() - saved_at > SAVE_EVERY_S:
                        self.save()
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                if self.statistics.count == sum(map(len, shares[: self.done])):  # not amid a batch
                    self.save()
                raise
        self.save()
        return merge_over_ranks(runtime, self.statistics)


def merge_over_ranks(runtime: Runtime, own: Statistics) -> Statistics:
    """The statistics of all ranks together, on every rank."""
    if runtime.world_size == 1:
        return own
    whole = Statistics(own.width, own.keeps_features)
    whole.count = int(distributed.sum_exactly(runtime, np.array([own.count], np.float64))[0])
    whole.total = distributed.sum_exactly(runtime, own.total)
    whole.products = distributed.sum_exactly(runtime, own.products)
    classes = int(distributed.gather_rows(runtime, np.array([_classes(own)], np.float32)).max())
    if classes:
        mine = own.arrays() if own.shares is not None else {}
        zeros = np.zeros((own.splits, classes)), np.zeros(own.splits), np.zeros(own.splits)
        whole.shares, whole.entropies, whole.split_counts = (
            distributed.sum_exactly(runtime, mine.get(name, empty))
            for name, empty in zip(("shares", "entropies", "split_counts"), zeros, strict=True)
        )
    if own.keeps_features:
        rows = np.concatenate(own.features) if own.features else np.zeros((0, own.width), np.float32)
        whole.features = [distributed.gather_any(runtime, rows)]
        numbers = distributed.gather_any(runtime, np.array(own.numbers, np.float32))
        whole.numbers = numbers.astype(int).tolist()
    return whole


def _classes(statistics: Statistics) -> int:
    return 0 if statistics.shares is None else statistics.shares.shape[1]


def source_of(records: ImageRecords) -> tuple[Source, int, str]:
    """The pictures of a data set as the model sees them; how many they are; and what says which they are."""

    def source(numbers: list[int]) -> np.ndarray:
        pictures = np.stack([records.image(number) for number in numbers]).transpose(0, 2, 3, 1)
        return pictures if pictures.dtype == np.uint8 else to_pixels(pictures)

    shape = (records.size, records.channels, records.resize_mode, records.interpolation, records.precise)
    stream = (records.seed, records.buffer_size) if isinstance(records, StreamedRecords) else ()
    return source, len(records), f"data set {records.fingerprint(most=len(records))}, {shape + stream}"


def kept_statistics(
    network: FeatureNetwork, wanted: list[str], source: Source, count: int, what: str, batch_size: int, runtime: Runtime
) -> Statistics:
    """Of real pictures: from the user's cache folder, or by looking at them, and then kept there."""
    keeps = metrics.keeps_features(wanted)
    key = hashlib.sha256(repr((what, network.identity, keeps)).encode()).hexdigest()[:24]
    folder = cache_dir() / "statistics"
    kept = load_if_whole(folder / f"{key}.npz")
    missing = distributed.any_rank(runtime, kept is None)  # on a machine of its own, or damaged
    if kept is not None and not missing:
        return kept[0]
    partial = folder / f"{key}-{runtime.rank}-of-{runtime.world_size}-by-{batch_size}.npz"
    gathering = Gathering(network, wanted, False, None if unwritable(folder) else partial, what)
    statistics = gathering.run(source, count, batch_size, runtime, "real pictures")
    try:
        if runtime.is_main:
            save_statistics(statistics, {"network": network.identity, "what": what}, folder / f"{key}.npz")
        partial.unlink(missing_ok=True)
    except OSError:
        pass  # looked at again the next time
    return statistics


def name_figures(network: FeatureNetwork, found: dict[str, float]) -> dict[str, float]:
    if not network.prefix:
        return found
    return {network.prefix + OTHER_NAMES.get(name, name): value for name, value in found.items()}

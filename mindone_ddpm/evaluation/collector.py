"""Features of many images, over all ranks: extracted batch by batch, kept in files, merged into statistics."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.files import cache_dir, unwritable
from mindone_ddpm.data.batching import pad_batch
from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.features import FeatureNetwork
from mindone_ddpm.evaluation.image_sources import ImageSource
from mindone_ddpm.evaluation.statistics import Statistics, load_cached, save_statistics
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime

SAVE_EVERY_S = 30.0  # at most so much work is lost by an interruption


def extract_features(network: FeatureNetwork, pixels: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (images, width) and logits (images, classes) of a batch of at most ``batch_size`` images.

    The batch is padded, so that the network always sees one size.
    """
    padded = pixels[pad_batch(range(len(pixels)), batch_size)]
    features, logits = network(padded)
    return features[: len(pixels)], logits[: len(pixels)]


def rank_batches(runtime: Runtime, count: int, batch_size: int) -> Iterator[list[int]]:
    """This rank's share of the ids from 0 to ``count`` - 1, in batches that go to the ranks in turn.

    Every rank has as many batches, so that collectives may be called at each; the last may be empty.
    """
    for start_of_round in range(0, count, runtime.world_size * batch_size):
        first = start_of_round + runtime.rank * batch_size
        yield list(range(first, min(first + batch_size, count)))


class StatisticsCollector:
    """Collects the statistics of a set of images, in this rank's share of batches.

    Args:
        wanted: the metrics they are for.
        keeps_features: keep the features even if no metric needs them.
        path: a file in which unfinished statistics are kept, from which an interrupted run continues; None: nowhere.
        what: identifies the images and the batches; unfinished statistics of anything else are not used.
    """

    def __init__(self, network: FeatureNetwork, wanted: list[str], keeps_features: bool, path: Path | None, what: str):
        self.network, self.path, self.what = network, path, what
        self.with_logits = "inception_score" in wanted
        self.statistics = Statistics(network.width, keeps_features or metrics.need_features(wanted))
        self.batches_done = 0
        cached = None if path is None else load_cached(path)
        if cached is not None and cached[1].get("what") == what:
            self.statistics, self.batches_done = cached[0], cached[1]["batches"]

    def save(self) -> None:
        if self.path is not None:
            save_statistics(self.statistics, {"what": self.what, "batches": self.batches_done}, self.path)

    def run(
        self,
        source: ImageSource,
        count: int,
        batch_size: int,
        runtime: Runtime,
        text: str,
        on_batch: Callable[[], object] = lambda: None,
    ) -> Statistics:
        """Collect the statistics of the ``count`` images of a source.

        Args:
            text: for the progress bar.
            on_batch: called before each batch, equally often on every rank.

        Returns:
            Those of all ranks together, on every rank.
        """
        batches = list(rank_batches(runtime, count, batch_size))
        bar = tqdm(
            total=sum(map(len, batches)),
            initial=sum(map(len, batches[: self.batches_done])),
            desc=text,
            unit="img",
            dynamic_ncols=True,
            disable=not runtime.is_main,
        )
        saved_at = time.monotonic()
        with bar:
            try:
                for image_ids in batches[self.batches_done :]:
                    on_batch()
                    if image_ids:
                        features, logits = extract_features(self.network, source(image_ids), batch_size)
                        self.statistics.add(features, logits if self.with_logits else None, image_ids, count)
                    self.batches_done += 1
                    bar.update(len(image_ids))
                    if time.monotonic() - saved_at > SAVE_EVERY_S:
                        self.save()
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                if self.statistics.count == sum(map(len, batches[: self.batches_done])):  # not within a batch
                    self.save()
                raise
        self.save()
        return merge_over_ranks(runtime, self.statistics)


def merge_over_ranks(runtime: Runtime, statistics: Statistics) -> Statistics:
    """The statistics of all ranks together, on every rank."""
    if runtime.world_size == 1:
        return statistics
    merged = Statistics(statistics.width, statistics.keeps_features)
    merged.count = int(distributed.sum_exactly(runtime, np.array([statistics.count], np.float64))[0])
    merged.total = distributed.sum_exactly(runtime, statistics.total)
    merged.products = distributed.sum_exactly(runtime, statistics.products)
    classes = int(distributed.gather_rows(runtime, np.array([_num_classes(statistics)], np.float32)).max())
    if classes:
        own = statistics.arrays() if statistics.shares is not None else {}
        splits = statistics.splits
        zeros = np.zeros((splits, classes)), np.zeros(splits), np.zeros(splits)
        merged.shares, merged.entropies, merged.split_counts = (
            distributed.sum_exactly(runtime, own.get(name, empty))
            for name, empty in zip(("shares", "entropies", "split_counts"), zeros, strict=True)
        )
    if statistics.keeps_features:
        empty_rows = np.zeros((0, statistics.width), np.float32)
        rows = np.concatenate(statistics.features) if statistics.features else empty_rows
        merged.features = [distributed.gather_any(runtime, rows)]
        image_ids = distributed.gather_any(runtime, np.array(statistics.image_ids, np.float32))
        merged.image_ids = image_ids.astype(int).tolist()
    return merged


def _num_classes(statistics: Statistics) -> int:
    return 0 if statistics.shares is None else statistics.shares.shape[1]


def cached_statistics(
    network: FeatureNetwork,
    wanted: list[str],
    source: ImageSource,
    count: int,
    what: str,
    batch_size: int,
    runtime: Runtime,
) -> Statistics:
    """The statistics of real images, from the user's cache folder, or collected and then cached there.

    Args:
        what: identifies the images; part of the cache key.
    """
    keeps_features = metrics.need_features(wanted)
    key = hashlib.sha256(repr((what, network.identity, keeps_features)).encode()).hexdigest()[:24]
    folder = cache_dir() / "statistics"
    cached = load_cached(folder / f"{key}.npz")
    is_missing = distributed.any_rank(runtime, cached is None)  # on a machine with another cache, or damaged
    if cached is not None and not is_missing:
        return cached[0]
    partial = folder / f"{key}-{runtime.rank}-of-{runtime.world_size}-by-{batch_size}.npz"
    collector = StatisticsCollector(network, wanted, False, None if unwritable(folder) else partial, what)
    statistics = collector.run(source, count, batch_size, runtime, "real images")
    try:
        if runtime.is_main:
            save_statistics(statistics, {"network": network.identity, "what": what}, folder / f"{key}.npz")
        partial.unlink(missing_ok=True)
    except OSError:
        pass  # collected again the next time
    return statistics

"""Image records of a stream: a data set larger than the disk, read in order and shuffled in a buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindone_ddpm.config.groups import DataConfig
from mindone_ddpm.data.images import DataError, content_digest
from mindone_ddpm.data.labels import check_label
from mindone_ddpm.data.records import ImageRecords


@dataclass
class StreamedRecords(ImageRecords):
    """Images of a stream. Index ``i`` is image ``i % num_samples`` of epoch ``i // num_samples``.

    The stream is shuffled in a buffer, keyed by the seed and the epoch. A later index is reached by reading on; an
    earlier one by reading the epoch from its beginning, without decoding. So an index always gives the same image.

    Attributes:
        num_samples: images in an epoch.
        seed: of the shuffling.
        buffer_size: images among which it is shuffled; 1: it is not.
    """

    num_samples: int = 0
    seed: int = 0
    buffer_size: int = 1
    _epoch: int = -1
    _next_place: int = 0
    _records: Iterator[dict[str, Any]] | None = None
    _current: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.arange(epoch * self.num_samples, (epoch + 1) * self.num_samples)

    def record(self, index: int) -> dict[str, Any]:
        index = int(index)
        if self._current is not None and self._current[0] == index:
            return self._current[1]
        epoch, place = divmod(index, self.num_samples)
        if epoch != self._epoch or place < self._next_place or self._records is None:
            stream = self.dataset
            if self.buffer_size > 1:
                stream = stream.shuffle(seed=self.seed, buffer_size=self.buffer_size)
                stream.set_epoch(epoch)
            self._records, self._epoch, self._next_place = iter(stream), epoch, 0
        record: dict[str, Any] = {}
        while self._next_place <= place:
            try:
                record = next(self._records)
            except StopIteration:
                raise DataError(
                    f"--streaming: the stream ended after {self._next_place:,} of {self.num_samples:,} images; give "
                    f"--max_train_samples {self._next_place}"
                ) from None
            self._next_place += 1
        self._current = (index, record)
        return record

    def label(self, index: int) -> int:
        assert self.labels is not None
        value = self.record(index)[self.labels.column]
        where = f"image {index} of the stream, column '{self.labels.column}'"
        return check_label(value, len(self.labels.names), where)

    def cache(self, limit_mib: int, show_progress: bool) -> None:
        """Does nothing: a stream does not fit in memory."""

    def fingerprint(self, most: int = 32) -> str:
        """A digest of the content of the stream's first eight images."""
        digest = hashlib.sha256(str(len(self)).encode())
        for record in self.dataset.take(8):
            digest.update(content_digest(record[self.column] or {}))
        return digest.hexdigest()[:16]


def stream_length(dataset: Any, config: DataConfig) -> int:
    """Images in an epoch of a stream: ``max_train_samples``, or what the data set's metadata say.

    Raises:
        DataError: neither is known.
    """
    if config.max_train_samples is not None:
        return config.max_train_samples
    splits = getattr(dataset.info, "splits", None) or {}
    split = splits.get(config.dataset_split.split("[")[0])
    if split is None or not split.num_examples:
        raise DataError("--streaming: this stream does not say how long it is; give --max_train_samples")
    return split.num_examples

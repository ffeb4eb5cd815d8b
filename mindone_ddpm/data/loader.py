"""From a job's ``make_batch`` to batches of MindSpore tensors, through a ``GeneratorDataset`` over whole batches.

A batch is a function of the seed and of its number alone: the order of an epoch and the generator of each sample are
keyed by the position of the sample in the run. So nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.data.columns import WEIGHTS, pack
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.randomness import SAMPLE_STREAM, epoch_order, random_stream


def check_batch_size(batch_size: int, num_samples: int, world_size: int) -> None:
    """Raises ConfigError if all ranks together take more for a batch than an epoch has."""
    if batch_size * world_size > num_samples:
        raise ConfigError(
            f"--train_batch_size {batch_size}: the data set has only {num_samples} images; "
            f"use at most {num_samples // world_size}"
        )


@dataclass(frozen=True)
class Plan:
    """How a run goes through its data. A *global batch* is ``world_size`` batches, one for each rank.

    Every sample is used once in an epoch. The last global batch is padded with samples of weight 0, which keep its
    shape and do not count. With ``drop_last`` an epoch ends before a batch that is not full; other samples are left
    out in each epoch.
    """

    seed: int
    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def samples_per_epoch(self) -> int:
        return min(self.num_samples, self.batches_per_epoch * self.global_batch_size)

    def positions(self, batch_number: int) -> tuple[int, np.ndarray]:
        """The epoch of a batch, and the places of this rank's samples in its order; places past the end are padding."""
        epoch, batch = divmod(batch_number, self.batches_per_epoch)
        start = batch * self.global_batch_size + self.rank * self.batch_size
        return epoch, np.arange(start, start + self.batch_size)


MakeBatch = Callable[[np.ndarray, list[np.random.Generator]], Mapping[str, np.ndarray]]


class BatchSource:
    """Random access to the batches of a run from number ``first`` on, for ``GeneratorDataset``.

    Item ``i`` is batch ``first + i`` of the run: the arrays that ``make_batch`` returns, in the order of ``columns``,
    then the weights, float32 of shape (batch,), 1 for a sample and 0 for padding.

    Args:
        make_batch: called with the indices of the samples, int64 of shape (batch,), and a generator for each.
        columns: the names of the arrays that it returns.
        count: the number of batches.
        order: called with the seed and the epoch, returns the indices of the epoch's samples in their order; by
            default a random permutation.
    """

    def __init__(
        self,
        plan: Plan,
        make_batch: MakeBatch,
        columns: Sequence[str],
        first: int,
        count: int,
        order: Callable[[int, int], np.ndarray] | None = None,
    ):
        self.plan, self.make_batch, self.first, self.count = plan, make_batch, first, count
        self.columns = (*columns, WEIGHTS)
        self.order = partial(epoch_order, num_samples=plan.num_samples) if order is None else order
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[np.ndarray, ...]:
        try:
            plan = self.plan
            epoch, places = plan.positions(self.first + int(item))
            indices = self._epoch_order(epoch)[np.minimum(places, plan.num_samples - 1)]
            rngs = [random_stream(plan.seed, SAMPLE_STREAM, epoch * plan.num_samples + int(place)) for place in places]
            weights = (places < plan.num_samples).astype(np.float32)
            return pack({**self.make_batch(indices, rngs), WEIGHTS: weights}, self.columns)
        except DataError as problem:
            # MindSpore wraps an exception in its own text; the marks let `batches` find the message again.
            raise DataError(f"<<<{problem}>>>") from problem

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, self.order(self.plan.seed, epoch))
        return self._order[1]


def make_loader(source: BatchSource, num_workers: int) -> Any:
    """A ``GeneratorDataset`` over whole batches, in order, made ahead by a thread or by worker processes."""
    import mindspore.dataset as ms_dataset

    num_workers = min(num_workers, os.cpu_count() or 1)  # MindSpore accepts no more
    ms_dataset.config.set_prefetch_size(4)  # whole batches: 16, the default, would take memory for nothing
    return ms_dataset.GeneratorDataset(
        source,
        column_names=list(source.columns),
        shuffle=False,
        num_parallel_workers=max(1, num_workers),
        python_multiprocessing=num_workers > 1,
    )


def batches(loader: Any) -> Iterator[list[Any]]:
    """The loader's batches: for each the MindSpore tensors of its columns, in their order.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    iterator = loader.create_tuple_iterator(num_epochs=1, do_copy=False)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            found = re.findall(r"<<<(.*?)>>>", str(error), re.DOTALL)  # the text quotes this module's line, too
            if found:
                raise DataError(found[-1]) from None
            raise
        yield batch

"""From a job's ``make_batch`` to batches of MindSpore tensors, through a ``GeneratorDataset`` over whole batches.

The generator of each sample is keyed by the place of the sample in the run; see :mod:`mindone_ddpm.data.plan`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mindone_ddpm.common.randomness import SAMPLE_STREAM, epoch_order, random_stream
from mindone_ddpm.data.columns import WEIGHTS, pack
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.plan import Order, Plan

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
        order: Order | None = None,
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
            number = self.first + int(item)
            planned = plan.batch(number, self._epoch_order(plan.epoch_of(number)))
            rngs = [random_stream(plan.seed, SAMPLE_STREAM, int(place)) for place in planned.places]
            weights = planned.is_sample.astype(np.float32)
            return pack({**self.make_batch(planned.indices, rngs), WEIGHTS: weights}, self.columns)
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

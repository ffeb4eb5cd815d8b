"""Images in, batches out.

An :class:`ImageRecords` is a Hugging Face data set seen as pictures of one size; :func:`make_loader` feeds it to
MindSpore through a ``GeneratorDataset`` whose items are whole batches. What a batch holds is a function of the seed
and of its number alone: the order of an epoch, the flips, the noise and the timesteps come from counter-based
generators keyed by the position of a sample in the run, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindone_ddpm.data.columns import WEIGHTS, pack
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.randomness import SAMPLE_STREAM, epoch_order, random_stream


@dataclass(frozen=True)
class Plan:
    """How a run walks through its data. A *global batch* is ``world_size`` batches, one for each rank.

    Every sample is seen once in an epoch: the last global batch is filled up with samples of weight 0, so that the
    shape stays what it was and the filling counts for nothing. With ``drop_last`` an epoch ends before a batch that is
    not full, and leaves other samples out each time.
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
        """Epoch, and this rank's places in the epoch's order; places past the end are filling."""
        epoch, batch = divmod(batch_number, self.batches_per_epoch)
        start = batch * self.global_batch_size + self.rank * self.batch_size
        return epoch, np.arange(start, start + self.batch_size)


class BatchSource:
    """Random access to the batches of a run, from number ``first`` on, for ``GeneratorDataset``.

    Item ``i`` is ``make_batch(indices, generators)`` for batch ``first + i``, followed by the weights: float32 of shape
    (batch,), 1 for a sample and 0 for filling. ``order(seed, epoch)`` says which index comes when.
    """

    def __init__(
        self,
        plan: Plan,
        make_batch: Callable[[np.ndarray, list[np.random.Generator]], Mapping[str, np.ndarray]],
        columns: Sequence[str],
        first: int,
        count: int,
        order: Callable[[int, int], np.ndarray] | None = None,
    ):
        self.plan, self.make_batch, self.columns = plan, make_batch, tuple(columns)
        self.first, self.count = first, count
        self.order = order
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[np.ndarray, ...]:
        try:
            plan = self.plan
            epoch, places = plan.positions(self.first + int(item))
            if self._order[0] != epoch:
                order = (
                    epoch_order(plan.seed, epoch, plan.num_samples)
                    if self.order is None
                    else self.order(plan.seed, epoch)
                )
                self._order = (epoch, order)
            weights = (places < plan.num_samples).astype(np.float32)
            indices = self._order[1][np.minimum(places, plan.num_samples - 1)]
            generators = [
                random_stream(plan.seed, SAMPLE_STREAM, epoch * plan.num_samples + int(place)) for place in places
            ]
            return (*pack(self.make_batch(indices, generators), self.columns), weights)
        except DataError as problem:
            # MindSpore wraps what a source raises in its own text; the marks let `batches` find the message again.
            raise DataError(f"<<<{problem}>>>") from problem


def make_loader(source: BatchSource, num_workers: int) -> Any:
    """A ``GeneratorDataset`` over whole batches, in order, decoded ahead by a thread or by worker processes."""
    import mindspore.dataset as ms_dataset

    num_workers = min(num_workers, os.cpu_count() or 1)  # MindSpore refuses more
    ms_dataset.config.set_prefetch_size(4)  # batches, not samples: 16, the default, would take memory for nothing
    return ms_dataset.GeneratorDataset(
        source,
        column_names=[*source.columns, WEIGHTS],
        shuffle=False,
        num_parallel_workers=max(1, num_workers),
        python_multiprocessing=num_workers > 1,
    )


def batches(loader: Any) -> Iterator[list[Any]]:
    """The loader's batches as MindSpore tensors.

    Raises:
        DataError: a picture cannot be read; the message names it.
    """
    iterator = loader.create_tuple_iterator(num_epochs=1, do_copy=False)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            found = re.findall(r"<<<(.*?)>>>", str(error), re.DOTALL)  # the text also quotes the line that raised
            if found:
                raise DataError(found[-1]) from None
            raise
        yield batch

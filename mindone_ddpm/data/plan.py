"""How a run goes through its data: which samples are in which batch, on which rank.

A batch is a function of the seed and of its number alone, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.randomness import BATCH_STREAM, random_stream

Order = Callable[[int, int], np.ndarray]  # (seed, epoch) to the indices of the epoch's samples, as they come


def check_batch_size(batch_size: int, num_samples: int, world_size: int) -> None:
    """Raises ConfigError if all ranks together take more for a batch than an epoch has."""
    if batch_size * world_size > num_samples:
        raise ConfigError(
            f"--train_batch_size {batch_size}: the data set has only {num_samples} images; "
            f"use at most {num_samples // world_size}"
        )


class PlannedBatch(NamedTuple):
    """One rank's part of a global batch.

    Attributes:
        indices: of the samples, int64 of shape (batch,).
        places: of the samples among all of the run, which key their random numbers, int64 of shape (batch,).
        is_sample: bool of shape (batch,); False for padding.
    """

    indices: np.ndarray
    places: np.ndarray
    is_sample: np.ndarray


@dataclass(frozen=True)
class Plan:
    """A *global batch* is ``world_size`` batches, one for each rank.

    Every sample is used once in an epoch. A global batch that is not full is padded with samples of weight 0, which
    keep its shape and do not count. With ``drop_last`` it is left out, with its samples.

    Attributes:
        groups: which group each sample belongs to, int64 of shape (num_samples,). Samples of different groups are
            never in one global batch; the global batches of an epoch come in a random order. None: one group, whose
            last batch is the last of the epoch.
    """

    seed: int
    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    groups: np.ndarray | None = field(default=None, compare=False)

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @cached_property
    def _group_sizes(self) -> np.ndarray:
        """How many samples each group has, int64 of shape (groups,)."""
        return np.array([self.num_samples]) if self.groups is None else np.bincount(self.groups)

    @cached_property
    def _batches_of_groups(self) -> np.ndarray:
        """How many global batches each group has, int64 of shape (groups,)."""
        full, rest = np.divmod(self._group_sizes, self.global_batch_size)
        return full if self.drop_last else full + (rest > 0)

    @cached_property
    def _counts(self) -> np.ndarray:
        """How many samples each global batch has, group by group, int64 of shape (batches_per_epoch,)."""
        size = self.global_batch_size
        return np.concatenate(
            [
                np.minimum(size, samples - size * np.arange(batches))
                for samples, batches in zip(self._group_sizes, self._batches_of_groups, strict=True)
            ]
        )

    @property
    def batches_per_epoch(self) -> int:
        return len(self._counts)

    @property
    def samples_per_epoch(self) -> int:
        return int(self._counts.sum())

    @property
    def num_batch_shapes(self) -> int:
        """In how many groups there are batches: each may have a shape of its own."""
        return int(np.count_nonzero(self._batches_of_groups))

    def _batch_order(self, epoch: int) -> np.ndarray:
        """The order of an epoch's global batches, int64 of shape (batches_per_epoch,)."""
        if self.groups is None:
            return np.arange(self.batches_per_epoch)
        return random_stream(self.seed, BATCH_STREAM, epoch).permutation(self.batches_per_epoch)

    def samples_before(self, batch_number: int) -> int:
        """How many samples all ranks together have used before a batch."""
        epoch, batch = divmod(batch_number, self.batches_per_epoch)
        done = int(self._counts[self._batch_order(epoch)[:batch]].sum())
        return epoch * self.samples_per_epoch + done

    def batch_after(self, samples: int) -> int:
        """The batch to go on with after so many samples: the one that holds the next sample."""
        epoch, rest = divmod(samples, self.samples_per_epoch)
        ends = np.cumsum(self._counts[self._batch_order(epoch)])
        return epoch * self.batches_per_epoch + int(np.searchsorted(ends, rest, side="right"))

    def epoch_of(self, batch_number: int) -> int:
        return batch_number // self.batches_per_epoch

    def batch(self, batch_number: int, order: np.ndarray) -> PlannedBatch:
        """This rank's part of a global batch. ``order``: of the samples in its epoch, int64 of shape (num_samples,)."""
        epoch, batch = divmod(batch_number, self.batches_per_epoch)
        mine = np.arange(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        if self.groups is None:
            within = batch * self.global_batch_size + mine
            places = epoch * self.num_samples + within
        else:
            order, number = self._within_group(order, int(self._batch_order(epoch)[batch]))
            within = number * self.global_batch_size + mine
            places = batch_number * self.global_batch_size + mine
        return PlannedBatch(order[np.minimum(within, len(order) - 1)], places, within < len(order))

    def _within_group(self, order: np.ndarray, number: int) -> tuple[np.ndarray, int]:
        """The order of the samples in the group that global batch ``number`` belongs to, and its number there."""
        ends = np.cumsum(self._batches_of_groups)
        group = int(np.searchsorted(ends, number, side="right"))
        return order[np.asarray(self.groups)[order] == group], number - int(
            ends[group] - self._batches_of_groups[group]
        )

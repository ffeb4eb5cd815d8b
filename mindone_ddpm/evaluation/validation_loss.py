"""The loss on held-out images, by noise level, with the same noise every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindone_ddpm.common.randomness import VALIDATION_STREAM, random_stream
from mindone_ddpm.data.batching import pad_batch
from mindone_ddpm.evaluation.collector import rank_batches
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.generate import evaluating

NUM_BUCKETS = 10
SEED = 0  # of noise and times, whatever the run's seed is, so that runs compare

# Gives the columns of one row: (index of an image, its generator, bucket of times) to arrays by column.
MakeRow = Callable[[int, np.random.Generator, int], dict[str, Any]]


class ValidationLoss:
    """The plain loss of a network for each of ten equal ranges of times; an Evaluator.

    Every image is measured once in each range. Whatever loss a run trains on, and however it weights noise levels, this
    one is the mean squared error; it compares between runs that predict the same thing.

    Args:
        network: put into evaluation mode while it is measured.
        loss: takes the columns, in their order, and returns the loss of each row, float32 of shape (batch,).
        columns: names and types of the columns that ``make_row`` gives.
        num_held_out: images there are; at most ``num_images`` of them are used, evenly spread, since classes may come
            one after the other.
        batch_size: of the forward passes. The metrics are the same for any, and for any number of ranks, to rounding.
        bucket_names: of the ten ranges.
        every: steps between measurements.
    """

    name = "validation_loss"
    best_metric: str | None = None

    def __init__(
        self,
        runtime: Runtime,
        network: nn.Cell,
        loss: nn.Cell,
        columns: dict[str, Any],
        make_row: MakeRow,
        num_held_out: int,
        num_images: int,
        batch_size: int,
        bucket_names: Sequence[str],
        every: int,
    ):
        self.runtime, self.network, self.loss, self.columns = runtime, network, loss, columns
        self.make_row, self.batch_size, self.every = make_row, batch_size, every
        self.num_images = min(num_images, num_held_out)
        self.indices = np.linspace(0, num_held_out - 1, self.num_images).round().astype(int).tolist()
        self.bucket_names = bucket_names

    @property
    def num_rows(self) -> int:
        """Forward passes of single images in one measurement."""
        return self.num_images * NUM_BUCKETS

    def row(self, row_id: int) -> dict[str, Any]:
        """The columns of a row, from a generator of its own."""
        place, bucket = divmod(row_id, NUM_BUCKETS)
        return self.make_row(self.indices[place], random_stream(SEED, VALIDATION_STREAM, row_id), bucket)

    def bucket_means(self, on_batch: Callable[[], object]) -> np.ndarray:
        """The mean loss in each range, float64 of shape (10,), over all ranks."""
        sums = np.zeros(NUM_BUCKETS)
        with evaluating(self.network):
            for row_ids in rank_batches(self.runtime, self.num_rows, self.batch_size):
                on_batch()
                if not row_ids:
                    continue
                rows = [self.row(row_id) for row_id in pad_batch(row_ids, self.batch_size)]
                columns = [
                    ms.Tensor(np.stack([row[name] for row in rows]), dtype) for name, dtype in self.columns.items()
                ]
                losses = self.loss(*columns).asnumpy().astype(np.float64)[: len(row_ids)]
                np.add.at(sums, np.array(row_ids) % NUM_BUCKETS, losses)
        return distributed.sum_exactly(self.runtime, sums) / self.num_images

    def prepare(self) -> None:
        """Nothing has to be known before."""

    def describe_cost(self, total_steps: int, images_per_step: int) -> str:
        return ""

    def run(self, on_batch: Callable[[], object]) -> dict[str, float]:
        """The mean over all ranges, and that of each, such as ``validation_loss_t000-099``."""
        means = self.bucket_means(on_batch)
        names = [f"validation_loss_{name}" for name in self.bucket_names]
        return {"validation_loss": float(means.mean()), **dict(zip(names, means.tolist(), strict=True))}

    def shown(self, found: dict[str, float]) -> list[str]:
        return ["validation_loss"]

    def key_of(self, metric: str) -> str:
        return metric

    @property
    def conditions(self) -> dict[str, Any]:
        return {"num_images": self.num_images}

"""The loss on pictures that are not trained on, by how noisy they are, with the same noise every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np

from mindone_ddpm.data.randomness import VALIDATION_STREAM, batch_places, random_stream
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.scaling import to_model_range
from mindone_ddpm.evaluation.statistics import rank_batches
from mindone_ddpm.jobs.unconditional.job import UnconditionalLoss
from mindone_ddpm.objectives.ddpm import DenoisingLoss
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime

NUM_BUCKETS = 10


SEED = 0  # of noise and timesteps, whatever the run's seed is, so that runs compare


class ValidationLoss:
    """The mean squared error of what the UNet predicts, for each of ten equal ranges of timesteps.

    Every picture is looked at once in each range. Whatever loss a run trains on, and however it weighs timesteps, this
    one is plain; it compares between runs that predict the same thing.

    Args:
        records: the pictures; ``num_images`` of them, evenly spread, since classes may lie one after the other.
        batch_size: of the forward passes. The figures are the same for any, and for any number of ranks, to rounding.
    """

    def __init__(
        self, runtime: Runtime, unet: Any, scheduler: Any, records: ImageRecords, num_images: int, batch_size: int
    ):
        self.runtime, self.unet, self.records, self.batch_size = runtime, unet, records, batch_size
        self.num_images = min(num_images, len(records))
        self.indices = np.linspace(0, len(records) - 1, self.num_images).round().astype(int).tolist()
        self.num_train_timesteps = scheduler.config.num_train_timesteps
        loss = DenoisingLoss(scheduler.alphas_cumprod.asnumpy(), scheduler.config.prediction_type)
        self.cell = UnconditionalLoss(unet, loss, records.labels is not None, False, None)

    @property
    def num_forward(self) -> int:
        """Pictures that go through the UNet for one look."""
        return self.num_images * NUM_BUCKETS

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Look ``number``: the picture in [-1, 1] and its noise, float32 of shape (channels, size, size), its timestep,
        and its label (0 where there is none)."""
        place, bucket = divmod(number, NUM_BUCKETS)
        index = self.indices[place]
        generator = random_stream(SEED, VALIDATION_STREAM, number)
        picture = to_model_range(self.records.image(index))
        first, end = (self.num_train_timesteps * b // NUM_BUCKETS for b in (bucket, bucket + 1))
        timestep = int(generator.integers(first, max(end, first + 1)))
        label = 0 if self.records.labels is None else self.records.label(index)
        return picture, generator.standard_normal(picture.shape, dtype=np.float32), timestep, label

    def measure(self, on_batch: Callable[[], object]) -> np.ndarray:
        """The mean in each range, float64 of shape (10,), over all ranks.

        ``on_batch`` is called before each batch, equally often on every rank.
        """
        sums = np.zeros(NUM_BUCKETS)
        training = self.unet.training
        self.unet.set_train(False)
        try:
            for numbers in rank_batches(self.runtime, self.num_forward, self.batch_size):
                on_batch()
                if not numbers:
                    continue
                filled = [numbers[place] for place in batch_places(0, self.batch_size, len(numbers))]
                pictures, noise, timesteps, labels = zip(*map(self.sample, filled), strict=True)
                columns = [ms.Tensor(np.stack(pictures)), ms.Tensor(np.stack(noise)), ms.Tensor(timesteps, ms.int32)]
                if self.cell.has_labels:
                    columns.append(ms.Tensor(labels, ms.int32))
                losses = self.cell(*columns).asnumpy().astype(np.float64)[: len(numbers)]
                np.add.at(sums, np.array(numbers) % NUM_BUCKETS, losses)
        finally:
            self.unet.set_train(training)
        return distributed.sum_exactly(self.runtime, sums) / self.num_images

    def figures(self, on_batch: Callable[[], object]) -> dict[str, float]:
        """The mean over all ranges, and that of each by its timesteps, such as ``validation_loss_t000-099``."""
        means = self.measure(on_batch)
        edges = [self.num_train_timesteps * bucket // NUM_BUCKETS for bucket in range(NUM_BUCKETS + 1)]
        names = [f"validation_loss_t{edges[b]:03d}-{edges[b + 1] - 1:03d}" for b in range(NUM_BUCKETS)]
        return {"validation_loss": float(means.mean()), **dict(zip(names, means.tolist(), strict=True))}

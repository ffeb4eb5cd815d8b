"""The parts of one training run, put together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np

from mindone_ddpm.averages.snapshots import BYTES_PER_WEIGHT
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.data.loader import BatchSource, Plan, batches, make_loader
from mindone_ddpm.jobs.base import Job
from mindone_ddpm.runtime import distributed, graph_cache
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.training.ema import ExponentialMovingAverage
from mindone_ddpm.training.identity import graph_key
from mindone_ddpm.training.schedule import Schedule
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate


@dataclass
class Training:
    """Configuration, job (data, model, objective), schedule, and the compiled step.

    Attributes:
        rates: the learning rate of each optimizer step, float64 of shape (total_steps,).
        data_identity: what names the content of the data sets.
    """

    config: EngineConfig
    runtime: Runtime
    job: Job
    schedule: Schedule
    rates: np.ndarray
    step_cell: DiffusionTrainStep
    data_identity: dict[str, str]
    is_compiled: bool = False

    @property
    def plan(self) -> Plan:
        return self.schedule.plan

    @property
    def update(self) -> OptimizerUpdate:
        return self.step_cell.boundary

    @property
    def ema(self) -> ExponentialMovingAverage | None:
        return self.update.ema

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def images_per_step(self) -> int:
        """On all ranks, in a full window."""
        return self.plan.global_batch_size * self.config.gradient_accumulation_steps

    def describe(self) -> dict[str, str]:
        """The plan, for a person: a few words for each heading."""
        config, schedule = self.config, self.schedule
        return {
            "device": f"{self.runtime.device}, {self.runtime.mode} mode, precision {config.mixed_precision}",
            **self.job.describe(),
            "batch": f"{config.train_batch_size} x {config.gradient_accumulation_steps} accumulated x "
            f"{self.runtime.world_size} device(s) = {self.images_per_step}",
            "steps": f"{schedule.total_steps:,} ({schedule.steps_per_epoch:,} an epoch)",
            **self._describe_snapshots(),
            "output": config.output_dir,
        }

    def _describe_snapshots(self) -> dict[str, str]:
        every = self.config.snapshot_steps
        if not every:
            return {}
        count = -(-self.schedule.total_steps // every)
        size = BYTES_PER_WEIGHT * sum(parameter.size for parameter in self.job.trainable().values())
        return {"averages": f"{count} snapshots of two, {size / 2**20:,.0f} MiB each"}

    def windows(self, batch_number: int) -> Iterator[list[list[ms.Tensor]]]:
        """Windows of micro-batches, from batch ``batch_number`` of the run on, without end."""
        while True:
            epochs_done = batch_number // self.plan.batches_per_epoch
            end = max(self.schedule.num_epochs, epochs_done + 1) * self.plan.batches_per_epoch
            order = self.job.datasets[0].order
            source = BatchSource(
                self.plan, self.job.make_batch, self.job.columns, batch_number, end - batch_number, order
            )
            stream = batches(make_loader(source, self.config.dataloader_num_workers))
            while batch_number < end:
                size = self.schedule.window_size(batch_number)
                yield [next(stream) for _ in range(size)]
                batch_number += size

    def step(self, window: list[list[ms.Tensor]]) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Train on a window of micro-batches; see :meth:`DiffusionTrainStep.run`. The first call compiles the step."""
        distributed.sync_ranks(self.runtime)
        if self.is_compiled:
            return self.step_cell.run(window)
        self.is_compiled = True
        with graph_cache.cached_graph(graph_key(self)):
            return self.step_cell.run(window)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the networks hold the averaged weights, where there are any."""
        with self.ema.swapped_in() if self.ema is not None else contextlib.nullcontext():
            yield

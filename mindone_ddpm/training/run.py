"""The parts of one training run, put together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
import numpy as np
from tqdm import tqdm

from mindone_ddpm.averages.snapshots import BYTES_PER_WEIGHT
from mindone_ddpm.common.errors import computing_networks
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.data.loader import BatchSource, batches, make_loader
from mindone_ddpm.data.plan import Plan
from mindone_ddpm.jobs.base import Job
from mindone_ddpm.runtime import distributed, graph_cache
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.training.ema import ExponentialMovingAverage
from mindone_ddpm.training.identity import graph_key, is_cacheable
from mindone_ddpm.training.schedule import Schedule
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate

Shapes = tuple[tuple[int, ...], ...]  # of the columns of a batch


def shapes_of(batch: list[ms.Tensor]) -> Shapes:
    return tuple(tuple(column.shape) for column in batch)


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
    compiled: set[Shapes] = field(default_factory=set)  # the shapes of batches for which the step is compiled

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
        """Train on a window of micro-batches; see :meth:`DiffusionTrainStep.run`. The first call with batches of some
        shape compiles the step for it."""
        distributed.sync_ranks(self.runtime)
        new = {shapes_of(batch) for batch in window} - self.compiled
        if not new:
            return self.step_cell.run(window)
        started = time.monotonic()
        # Settings of a stranger's networks may not go together; an error in a custom job's is a traceback.
        is_foreign = getattr(self.config, "pretrained_model_name_or_path", None) is not None and is_cacheable(self)
        told = computing_networks() if is_foreign else contextlib.nullcontext()
        # MindSpore reads the path of its cache once in a process: only the first graphs can be cached.
        with told, graph_cache.cached_graph(None if self.compiled else graph_key(self, new)):
            result = self.step_cell.run(window)
        self.compiled |= new
        self._say_compiled(len(new), time.monotonic() - started)
        return result

    def _say_compiled(self, number: int, seconds: float) -> None:
        """Where batches have several shapes: how long the graphs of the first took, and what is still to come."""
        left = self.plan.num_batch_shapes - len(self.compiled)
        if self.runtime.is_main and left and number == len(self.compiled):
            tqdm.write(
                f"compiled {number} of {number + left} graphs in {seconds:.0f} s; each other one is compiled when its "
                f"size first comes, in all about {left * seconds / number:.0f} s"
            )

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the networks hold the averaged weights, where there are any."""
        with self.ema.swapped_in() if self.ema is not None else contextlib.nullcontext():
            yield

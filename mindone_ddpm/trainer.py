"""The one loop. :func:`train` reads from top to bottom: prepare, loop, finish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from tqdm import tqdm

from mindone_ddpm import checkpoint, models, optimizers, sampling, tracking
from mindone_ddpm.config import ConfigError, TrainingConfig, check_training, to_yaml
from mindone_ddpm.data import BatchSource, DataProblem, ImageRecords, Plan, batches, make_loader, open_records
from mindone_ddpm.runtime import Runtime, start
from mindone_ddpm.step import DiffusionTrainStep, UpdateBoundary
from mindone_ddpm.unconditional import UnconditionalJob


class TrainingProblem(Exception):
    """Training cannot go on; the message is one line for the user."""


@dataclass
class Schedule:
    """How many batches, windows and steps a run has. A window of micro-batches never crosses an epoch's end."""

    plan: Plan
    accumulation_steps: int
    num_epochs: int
    max_train_steps: int | None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.plan.batches_per_epoch // self.accumulation_steps)

    @property
    def total_steps(self) -> int:
        return self.max_train_steps or self.num_epochs * self.steps_per_epoch

    def window_size(self, batch_number: int) -> int:
        """Micro-batches in the window that begins at ``batch_number``."""
        left_in_epoch = self.plan.batches_per_epoch - batch_number % self.plan.batches_per_epoch
        return min(self.accumulation_steps, left_in_epoch)

    def epoch(self, batch_number: int) -> tuple[int, bool]:
        """Which epoch the batches before ``batch_number`` have reached, from 1, and whether they end it."""
        done, rest = divmod(batch_number, self.plan.batches_per_epoch)
        return done + bool(rest), rest == 0

    def is_over(self, step: int, batch_number: int) -> bool:
        if self.max_train_steps is not None:
            return step >= self.max_train_steps
        return batch_number >= self.num_epochs * self.plan.batches_per_epoch

    def samples_seen(self, batch_number: int) -> int:
        """By all ranks together."""
        epoch, batch = divmod(batch_number, self.plan.batches_per_epoch)
        return epoch * self.plan.num_samples + min(batch * self.plan.global_batch_size, self.plan.num_samples)


@dataclass
class Progress:
    """Where a run stands: all else is a function of it."""

    step: int = 0
    batch_number: int = 0
    skips: int = 0
    losses: list[float] = field(default_factory=list)


def settle(config: TrainingConfig, runtime: Runtime) -> TrainingConfig:
    """Replace ``auto`` and unset values by what they mean on this machine."""
    precision = runtime.default_precision if config.mixed_precision == "auto" else config.mixed_precision
    scale = config.loss_scale if config.loss_scale is not None else (65536.0 if precision == "fp16" else 1.0)
    return replace(config, mixed_precision=precision, loss_scale=scale)


def check_output_dir(config: TrainingConfig) -> None:
    """Raises ConfigError if the folder holds a run and may not be overwritten, or is no folder."""
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output_dir {folder}: is a file; give a folder")
    if checkpoint.run_products(folder) and not config.overwrite_output_dir:
        raise ConfigError(
            f"--output_dir {folder}: already holds a run; give another folder, or --overwrite_output_dir to replace it"
        )


@dataclass
class Training:
    """The pieces of a run, put together: config, data, model, noise scheduler, job, step."""

    config: TrainingConfig
    runtime: Runtime
    records: ImageRecords
    unet: Any
    scheduler: Any
    job: Any
    schedule: Schedule
    rates: np.ndarray
    step_cell: DiffusionTrainStep

    @property
    def plan(self) -> Plan:
        return self.schedule.plan

    def describe(self) -> dict[str, str]:
        """The plan in words and figures, for a person."""
        config, schedule = self.config, self.schedule
        effective = self.plan.global_batch_size * config.gradient_accumulation_steps
        return {
            "device": f"{self.runtime.device}, {self.runtime.mode} mode, precision {config.mixed_precision}",
            "data": f"{len(self.records):,} images at {config.image_size}x{config.image_size}, "
            f"{config.channels} channel(s)",
            "model": f"{models.unet_name(config)}, {models.num_parameters(self.unet):,} parameters",
            "batch": f"{config.train_batch_size} x {config.gradient_accumulation_steps} accumulated x "
            f"{self.runtime.world_size} device(s) = {effective}",
            "steps": f"{schedule.total_steps:,} ({schedule.steps_per_epoch:,} an epoch)",
            "output": config.output_dir,
        }

    def windows(self, batch_number: int) -> Iterator[list[list[ms.Tensor]]]:
        """Windows of micro-batches from a batch of the run on, without end."""
        while True:
            epochs_done = batch_number // self.plan.batches_per_epoch
            end = max(self.schedule.num_epochs, epochs_done + 1) * self.plan.batches_per_epoch
            source = BatchSource(self.plan, self.job.make_batch, batch_number, end - batch_number)
            stream = batches(make_loader(source, self.job.columns, self.config.dataloader_num_workers))
            while batch_number < end:
                size = self.schedule.window_size(batch_number)
                yield [next(stream) for _ in range(size)]
                batch_number += size


def begin(config: TrainingConfig) -> tuple[TrainingConfig, Runtime]:
    """Check the configuration, start MindSpore, and settle what depends on the machine.

    Raises:
        ConfigError, RuntimeProblem: before anything is written.
    """
    check_training(config)
    check_output_dir(config)
    runtime = start(config.device, config.mode, config.seed)
    return settle(config, runtime), runtime


def assemble(
    config: TrainingConfig, runtime: Runtime, records: ImageRecords, unet: Any, scheduler: Any, job: Any
) -> Training:
    """Plan the run and build its train step.

    Raises:
        DataProblem: fewer images than a batch.
    """
    plan = Plan(config.seed, len(records), config.train_batch_size, runtime.rank, runtime.world_size)
    if plan.global_batch_size > len(records):
        raise DataProblem(
            f"--train_batch_size {config.train_batch_size}: the data set has only {len(records)} images; "
            f"use at most {len(records) // plan.world_size}"
        )
    schedule = Schedule(plan, config.gradient_accumulation_steps, config.num_epochs, config.max_train_steps)
    optimizer = optimizers.make_optimizer(config, ms.ParameterTuple(unet.trainable_params()))
    rates = optimizers.learning_rates(
        config.lr_scheduler, config.learning_rate, config.lr_warmup_steps, schedule.total_steps
    )
    boundary = UpdateBoundary(optimizer, optimizer.columns(rates), config.max_grad_norm, float(config.loss_scale or 1))
    step_cell = DiffusionTrainStep(job.loss_cell(unet, scheduler), boundary, config.gradient_accumulation_steps)
    return Training(config, runtime, records, unet, scheduler, job, schedule, rates, step_cell.set_train())


def prepare(config: TrainingConfig) -> Training:
    """All the pieces of an unconditional run, from its configuration."""
    config, runtime = begin(config)
    records = open_records(config)
    unet = models.make_unet(config)
    scheduler = models.make_noise_scheduler(config)
    return assemble(config, runtime, records, unet, scheduler, UnconditionalJob(config, records))


class Report:
    """The bar and the tracker. Losses stay on the device until :meth:`fetch`."""

    def __init__(self, training: Training, progress: Progress, tracker: tracking.Tracker):
        self.rates, self.tracker = training.rates, tracker
        self.images_per_step = training.plan.global_batch_size * training.config.gradient_accumulation_steps
        self.pending: list[tuple[ms.Tensor, ms.Tensor]] = []
        self.since, self.steps_since = time.perf_counter(), 0
        self.bar = tqdm(
            total=training.schedule.total_steps,
            initial=progress.step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not training.runtime.is_main,
        )

    def add(self, result: tuple[ms.Tensor, ms.Tensor]) -> None:
        self.pending.append(result)
        self.steps_since += 1

    def pause(self) -> float:
        """Leave what follows out of the rate."""
        return time.perf_counter()

    def resume(self, paused_at: float) -> None:
        self.since += time.perf_counter() - paused_at

    def fetch(self, progress: Progress, boundary: UpdateBoundary) -> None:
        """Bring what is pending to the host, settle the true step, and show and track it.

        Raises:
            TrainingProblem: a loss is not finite.
        """
        if not self.pending:
            return
        losses = [float(loss.asnumpy()) for loss, _ in self.pending]
        norms = [float(norm.asnumpy()) for _, norm in self.pending]
        self.pending = []
        seconds = time.perf_counter() - self.since
        images_per_second = self.steps_since * self.images_per_step / max(seconds, 1e-9)
        self.since, self.steps_since = time.perf_counter(), 0
        progress.step, progress.skips = int(boundary.step.asnumpy()), int(boundary.skips.asnumpy())
        progress.losses += losses
        rate = float(self.rates[min(max(progress.step - 1, 0), len(self.rates) - 1)])
        self.bar.n = progress.step
        self.bar.set_postfix_str(f"loss {losses[-1]:.4f}, lr {rate:.2e}, {images_per_second:.1f} img/s")
        values = {
            "train/loss": float(np.mean(losses)),
            "train/learning_rate": rate,
            "train/grad_norm": norms[-1],
            "train/images_per_second": images_per_second,
            "train/skipped_updates": float(progress.skips),
        }
        self.tracker.scalars(progress.step, values)
        if not np.isfinite(losses[-1]) and float(boundary.loss_scale.asnumpy()) == 1.0:
            raise TrainingProblem(
                f"the loss is {losses[-1]} at step {progress.step + 1}; try a lower --learning_rate or check the images"
            )

    def close(self) -> None:
        self.bar.close()


def train(config: TrainingConfig) -> Path:
    """Train as configured; the folder returned holds a pipeline that ``DDPMPipeline.from_pretrained`` loads.

    Raises:
        ConfigError, DataProblem, RuntimeProblem: before anything is written.
        TrainingProblem: training cannot go on.
    """
    return train_loop(prepare(config))


def train_loop(training: Training) -> Path:
    """Run the loop to its end and save the pipeline; returns its folder."""
    # Prepare.
    config, schedule, step_cell = training.config, training.schedule, training.step_cell
    output_dir = Path(config.output_dir)
    for name, value in training.describe().items():
        tqdm.write(f"{name:>8}: {value}")
    training.records.cache(config.cache_images_mib, show_progress=training.runtime.is_main)
    checkpoint.clear_run(output_dir, config.logging_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text(output_dir / checkpoint.RUN_CONFIG, to_yaml(config))
    tracker = tracking.make_tracker(config.report_to, output_dir / config.logging_dir)
    progress = Progress()
    report = Report(training, progress, tracker)

    # Loop.
    try:
        for window in training.windows(progress.batch_number):
            report.add(step_cell.run(window))
            progress.step += 1
            progress.batch_number += len(window)

            epoch, epoch_ends = schedule.epoch(progress.batch_number)
            last = schedule.is_over(progress.step, progress.batch_number)
            if last or epoch_ends or progress.step % config.logging_steps == 0:
                report.fetch(progress, step_cell.boundary)
                last = schedule.is_over(progress.step, progress.batch_number)  # skipped updates do not count

            paused_at = report.pause()
            if config.save_image_epochs and (last or (epoch_ends and is_due(epoch, config.save_image_epochs))):
                save_samples(training, epoch, progress, tracker)
            if last or (epoch_ends and is_due(epoch, config.save_model_epochs)):
                checkpoint.save_pipeline(training.job.pipeline(training.unet, training.scheduler), output_dir)
            report.resume(paused_at)
            if last:
                break
    finally:
        report.close()
        tracker.close()
    return output_dir


def is_due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


def save_samples(training: Training, epoch: int, progress: Progress, tracker: tracking.Tracker) -> None:
    """Write ``samples/<epoch>.png``: a grid from generators of its own, so that training's randomness is left alone."""
    config = training.config
    bar = tqdm(
        total=config.ddpm_num_inference_steps,
        desc=f"sampling, epoch {epoch}",
        unit="step",
        leave=False,
        dynamic_ncols=True,
        disable=not training.runtime.is_main,
    )
    with bar:
        pictures = sampling.generate(
            training.unet,
            training.scheduler,
            num_images=config.eval_batch_size,
            batch_size=config.eval_batch_size,
            num_inference_steps=config.ddpm_num_inference_steps,
            seed=config.seed,
            on_step=lambda _: bar.update(),
        )
    grid = sampling.make_grid(pictures)
    folder = Path(config.output_dir) / "samples"
    folder.mkdir(exist_ok=True)
    grid.save(folder / f"{epoch:04d}.png")
    tracker.picture(progress.step, "samples", grid)

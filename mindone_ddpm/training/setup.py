"""The one loop. :func:`train_loop` reads from top to bottom: prepare, loop, finish."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import mindspore as ms
import numpy as np

from mindone_ddpm.common.errors import ConfigError, UserError
from mindone_ddpm.common.files import check_writable
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.loader import BatchSource, Plan, batches, make_loader
from mindone_ddpm.data.open import open_records
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.base import check
from mindone_ddpm.jobs.text_to_image.captions import open_captioned
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.job import make_text_to_image_job
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.job import make_unconditional_job
from mindone_ddpm.models.precision import set_compute_precision
from mindone_ddpm.models.unet import checkpoint_gradients, use_fused_attention
from mindone_ddpm.output import checkpoint, hub
from mindone_ddpm.runtime import distributed, graph_cache
from mindone_ddpm.runtime.start import Runtime, is_main_by_environment, launched_by_msrun, start
from mindone_ddpm.training import optimizers
from mindone_ddpm.training.ema import ExponentialMovingAverage, make_ema
from mindone_ddpm.training.identity import graph_key
from mindone_ddpm.training.schedule import Schedule
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate

Config = TypeVar("Config", bound=EngineConfig)


class TrainingError(UserError):
    """Training cannot go on; the message is one line for the user."""


class Stopped(UserError):
    """The run was told to stop by a signal, and has kept what it had."""

    prefix = ""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_status = 128 + signal_number


@dataclass
class Training:
    """The pieces of a run, put together: config, job (data, model, noise scheduler), schedule, step."""

    config: EngineConfig
    runtime: Runtime
    job: Any
    schedule: Schedule
    rates: np.ndarray
    step_cell: DiffusionTrainStep
    data_fingerprint: str
    is_compiled: bool = False

    @property
    def unet(self) -> Any:
        return self.job.unet

    @property
    def records(self) -> ImageRecords:
        return self.job.records

    @property
    def plan(self) -> Plan:
        return self.schedule.plan

    @property
    def boundary(self) -> OptimizerUpdate:
        return self.step_cell.boundary

    @property
    def ema(self) -> ExponentialMovingAverage | None:
        return self.boundary.ema

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    def describe(self) -> dict[str, str]:
        """The plan in words and figures, for a person."""
        config, schedule = self.config, self.schedule
        effective = self.plan.global_batch_size * config.gradient_accumulation_steps
        return {
            "device": f"{self.runtime.device}, {self.runtime.mode} mode, precision {config.mixed_precision}",
            **self.job.describe(),
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
            source = BatchSource(self.plan, self.job.make_batch, batch_number, end - batch_number, self.records.order)
            stream = batches(make_loader(source, self.job.columns, self.config.dataloader_num_workers))
            while batch_number < end:
                size = self.schedule.window_size(batch_number)
                yield [next(stream) for _ in range(size)]
                batch_number += size

    def step(self, window: list[list[ms.Tensor]]) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Train on a window of micro-batches; see :meth:`DiffusionTrainStep.run`. The first compiles the step."""
        distributed.sync_ranks(self.runtime)
        if self.is_compiled:
            return self.step_cell.run(window)
        self.is_compiled = True
        with graph_cache.cached_graph(graph_key(self)):
            return self.step_cell.run(window)

    @contextlib.contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The network holds the averaged weights inside, where there are any."""
        with self.ema.swapped_in() if self.ema is not None else contextlib.nullcontext():
            yield


def resolve_auto(config: Config, runtime: Runtime) -> Config:
    """Replace ``auto`` and unset values by what they mean on this machine.

    Raises:
        ConfigError: the machine has no kernels for the precision asked for.
    """
    backend = runtime.backend
    precision = backend.default_precision if config.mixed_precision == "auto" else config.mixed_precision
    if precision not in backend.precisions:
        raise ConfigError(
            f"--mixed_precision {precision}: this {backend.name} has no kernels for it; "
            f"use {' or '.join(backend.precisions)}"
        )
    scale = config.loss_scale if config.loss_scale is not None else (65536.0 if precision == "fp16" else 1.0)
    return replace(config, mixed_precision=precision, loss_scale=scale)


def check_output_dir(config: EngineConfig) -> None:
    """Raises ConfigError if the folder holds a run and may be neither overwritten nor resumed, or is no folder."""
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output_dir {folder}: is a file; give a folder")
    check_writable(folder)
    if config.overwrite_output_dir:
        return
    if config.resume_from_checkpoint is not None:
        if (folder / checkpoint.PIPELINE_INDEX).exists() and not checkpoint.checkpoints_in(folder):
            raise ConfigError(
                f"--output_dir {folder}: holds a pipeline but no checkpoint to resume from; give another folder, or "
                "--overwrite_output_dir to train anew"
            )
        return
    if checkpoint.run_products(folder):
        raise ConfigError(
            f"--output_dir {folder}: already holds a run; give another folder, --overwrite_output_dir to replace it, "
            "or --resume_from_checkpoint latest to go on"
        )


def begin(config: Config) -> tuple[Config, Runtime]:
    """Check the configuration, start MindSpore, and resolve_auto what depends on the machine.

    Raises:
        ConfigError, DeviceError: before anything is written.
    """
    check(config)
    if config.push_to_hub and is_main_by_environment():  # the only one that uploads
        hub.check_login(config.hub_token)
    if not launched_by_msrun():
        check_output_dir(config)
    runtime = start(config.device, config.mode, config.seed, config.deterministic, config.max_device_memory)
    if launched_by_msrun() and runtime.is_main:  # the others may be here after it has begun to write
        check_output_dir(config)
    return resolve_auto(config, runtime), runtime


def build_training(config: EngineConfig, runtime: Runtime, job: Any) -> Training:
    """Plan the run of a job and build its train step.

    Raises:
        DataError: fewer images than a batch.
    """
    unet, records = job.unet, job.records
    sizes = (len(records), config.train_batch_size)
    plan = Plan(config.seed, *sizes, runtime.rank, runtime.world_size, config.dataloader_drop_last)
    if plan.global_batch_size > len(records):
        raise DataError(
            f"--train_batch_size {config.train_batch_size}: the data set has only {len(records)} images; "
            f"use at most {len(records) // plan.world_size}"
        )
    schedule = Schedule(plan, config.gradient_accumulation_steps, config.num_epochs, config.max_train_steps)
    set_compute_precision(unet, config.mixed_precision)
    use_fused_attention(config, unet, runtime.backend)
    if config.gradient_checkpointing:
        checkpoint_gradients(unet)
    parameters = ms.ParameterTuple(unet.trainable_params())
    distributed.broadcast_parameters(runtime, parameters)
    peak = config.learning_rate
    if config.scale_lr:
        peak *= plan.global_batch_size * config.gradient_accumulation_steps
    rates = optimizers.learning_rates(
        config.lr_scheduler,
        peak,
        config.lr_warmup_steps,
        schedule.total_steps,
        config.lr_num_cycles,
        config.lr_power,
        config.lr_step_rules,
    )
    boundary = OptimizerUpdate(
        optimizers.make_optimizer(config, parameters, runtime.backend),
        rates,
        runtime.backend,
        max_grad_norm=config.max_grad_norm,
        loss_scale=config.loss_scale or 1.0,
        dynamic_scaling=config.loss_scaling == "dynamic",
        ema=make_ema(config, parameters, schedule.total_steps, runtime.backend),
        world_size=plan.world_size,
    )
    step_cell = DiffusionTrainStep(job.loss_cell(), boundary, config.gradient_accumulation_steps)
    step_cell.set_train()
    return Training(config, runtime, job, schedule, rates, step_cell, records.fingerprint())


def prepare(config: EngineConfig) -> Training:
    """All the pieces of a run, from its configuration."""
    config, runtime = begin(config)
    if isinstance(config, TextToImageConfig):
        with distributed.main_first(runtime):
            records, column = open_captioned(config)
        return build_training(config, runtime, make_text_to_image_job(config, records, column))
    assert isinstance(config, TrainingConfig)
    with distributed.main_first(runtime):
        records = open_records(config)
    return build_training(config, runtime, make_unconditional_job(config, records))

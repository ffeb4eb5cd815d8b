"""From a configuration to the parts of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import mindspore as ms

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import check_writable
from mindone_ddpm.common.locks import FolderLock
from mindone_ddpm.config.groups import BUILT_IN_DATASETS, EngineConfig
from mindone_ddpm.data.columns import CalledByName
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.plan import Plan, check_batch_size
from mindone_ddpm.jobs.base import Job, job_class
from mindone_ddpm.models.precision import check_precision
from mindone_ddpm.output import checkpoint, hub, run_folder
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.launchers import adopt_launcher, launched
from mindone_ddpm.runtime.start import Runtime, is_main_by_environment, start
from mindone_ddpm.training import optimizers
from mindone_ddpm.training.ema import make_ema, make_power_averages
from mindone_ddpm.training.identity import identity_of_data
from mindone_ddpm.training.run import Training
from mindone_ddpm.training.schedule import Schedule
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate
from mindone_ddpm.training.weights import make_weights

Config = TypeVar("Config", bound=EngineConfig)
DEFAULT_FP16_LOSS_SCALE = 65536.0
MOST_STEPS = 10_000_000  # each has a row in a table on the device


def start_training(config: Config) -> tuple[Config, Runtime]:
    """Check the configuration, start MindSpore, and resolve what depends on the machine.

    Raises:
        ConfigError, DeviceError: before anything is written.
    """
    config.check()
    adopt_launcher()
    if config.push_to_hub and is_main_by_environment():  # the only one that uploads
        hub.check_upload(config, Path(config.output_dir), config.hub_license)
    if not launched():
        check_output_dir(config)
    runtime = start(
        config.device, config.mode, config.seed, config.deterministic, config.max_device_memory, config.jit_level
    )
    if launched() and runtime.is_main:  # the others may be here after it has begun to write
        check_output_dir(config)
    return resolve_auto(config, runtime), runtime


def resolve_auto(config: Config, runtime: Runtime) -> Config:
    """Replace ``auto`` and unset values by what they mean on this machine.

    Raises:
        ConfigError: the device has no kernels for the precision asked for.
    """
    backend = runtime.backend
    precision = backend.default_precision if config.mixed_precision == "auto" else config.mixed_precision
    check_precision("--mixed_precision", precision, backend)
    default_scale = DEFAULT_FP16_LOSS_SCALE if precision == "fp16" else 1.0
    scale = default_scale if config.loss_scale is None else config.loss_scale
    return replace(config, mixed_precision=precision, loss_scale=scale)


def check_output_dir(config: EngineConfig) -> None:
    """Raises ConfigError if the folder holds a run and may be neither overwritten nor resumed, or is no folder."""
    folder = Path(config.output_dir)
    check_writable(folder)
    check_is_apart(config)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output_dir {folder}: is a file; give a folder")
    FolderLock(folder, "--output_dir").check()
    if config.overwrite_output_dir:
        return
    if config.resume_from_checkpoint is not None:
        if run_folder.index_files_in(folder) and not checkpoint.checkpoints_in(folder):
            raise ConfigError(
                f"--output_dir {folder}: holds a pipeline but no checkpoint to resume from; give another folder, or "
                "--overwrite_output_dir to train anew"
            )
        return
    if run_folder.run_products(folder):
        raise ConfigError(
            f"--output_dir {folder}: already holds a run; give another folder, --overwrite_output_dir to replace it, "
            "or --resume_from_checkpoint latest to go on"
        )


def check_is_apart(config: EngineConfig) -> None:
    """Raises ConfigError if the output folder is in the folder of images: a run's samples would be trained on."""
    for name in ("train_data_dir", "dataset_name"):
        source = getattr(config, name)
        # A built-in data set keeps its meaning where a folder has its name: the quickstart's run is called digits.
        if source is not None and source not in BUILT_IN_DATASETS and os.path.isdir(source):
            output_dir = Path(config.output_dir).resolve()
            if output_dir.is_relative_to(Path(source).resolve()):
                raise ConfigError(
                    f"--output_dir {config.output_dir}: is in --{name} {source}, where the run's own samples would "
                    "become training images; give a folder outside of it"
                )


def prepare(config: EngineConfig, makes_data: bool = True) -> Training:
    """All parts of a run, from its configuration. Raises what :func:`start_training` does, and DataError.

    Args:
        makes_data: whether data that a job needs and that are missing are made; a dry run does without.
    """
    config, runtime = start_training(config)
    runtime = replace(runtime, makes_data=makes_data)
    job = job_class(config).open(config, runtime)
    return build_training(job.config, runtime, job)


def build_training(config: EngineConfig, runtime: Runtime, job: Job) -> Training:
    """Plan the run of a job and build its train step.

    Args:
        config: as :func:`start_training` has resolved it.

    Raises:
        ConfigError: fewer images than a batch, or more steps than can be planned.
        DataError: the ranks see different images.
    """
    num_images = len(job.datasets[0])
    plan = Plan(
        config.seed,
        num_images,
        config.train_batch_size,
        runtime.rank,
        runtime.world_size,
        config.dataloader_drop_last,
        job.datasets[0].groups,
    )
    check_batch_size(config.train_batch_size, num_images, plan.world_size)
    schedule = Schedule(plan, config.gradient_accumulation_steps, config.num_epochs, config.max_train_steps)
    if schedule.total_steps > MOST_STEPS:
        flag = "--num_epochs" if config.max_train_steps is None else "--max_train_steps"
        raise ConfigError(f"{flag}: {schedule.total_steps:,} steps in all; at most {MOST_STEPS:,} can be planned")
    data_identity = identity_of_data(job.datasets)
    check_same_data(runtime, data_identity)
    parameters = ms.ParameterTuple(job.trainable().values())
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
    loss = CalledByName(job.loss_cell(), job.columns)
    flat = runtime.backend.flat_weights and optimizers.is_elementwise(config.optimizer)
    weights = make_weights(parameters, loss, flat)
    update = OptimizerUpdate(
        optimizers.make_optimizer(config, weights.updated, runtime.backend),
        rates,
        max_grad_norm=config.max_grad_norm,
        loss_scale=config.loss_scale or 1.0,
        dynamic_scaling=config.loss_scaling == "dynamic",
        ema=make_ema(config, weights, schedule.total_steps, runtime.backend),
        power_averages=make_power_averages(config, weights, schedule.total_steps, runtime.backend),
        world_size=plan.world_size,
        backend=runtime.backend,
        weights=weights,
    )
    step_cell = DiffusionTrainStep(loss, update, config.gradient_accumulation_steps)
    step_cell.set_train()
    return Training(config, runtime, job, schedule, rates, step_cell, data_identity)


def check_same_data(runtime: Runtime, data_identity: dict[str, str]) -> None:
    """
    Args:
        data_identity: what this rank's images are; see :func:`identity_of_data`.

    Raises:
        DataError: on every rank, if those of one are not the main rank's.
    """
    of_main = distributed.broadcast_object(runtime, data_identity)
    if distributed.any_rank(runtime, of_main != data_identity):
        differs = "" if of_main == data_identity else f": {data_identity} on rank {runtime.rank}, {of_main} on rank 0"
        raise DataError(f"the ranks see different images{differs}; give each the same ones, or a shared folder")

"""The one loop. :func:`train_loop` reads from top to bottom: prepare, loop, finish."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_ddpm import checkpoint, distributed, graph_cache, hub, kernels, models, optimizers, sampling, tracking
from mindone_ddpm.captions import open_captioned
from mindone_ddpm.card import write_card
from mindone_ddpm.checkpoint import CheckpointProblem
from mindone_ddpm.config import (
    FIGURES,
    ConfigError,
    EngineConfig,
    Problem,
    TextToImageConfig,
    TrainingConfig,
    as_dict,
    check,
    check_writable,
    first_line,
    to_yaml,
)
from mindone_ddpm.data import BatchSource, DataProblem, ImageRecords, Plan, batches, make_loader, open_records
from mindone_ddpm.distributed import Watch
from mindone_ddpm.ema import ExponentialMovingAverage, make_ema
from mindone_ddpm.evaluation import Evaluator
from mindone_ddpm.precision import set_compute_precision
from mindone_ddpm.runtime import Runtime, interrupt_watch, is_main_by_environment, launched_by_msrun, start, versions
from mindone_ddpm.step import DiffusionTrainStep, UpdateBoundary
from mindone_ddpm.text_to_image import make_text_to_image_job
from mindone_ddpm.unconditional import make_unconditional_job
from mindone_ddpm.validation import ValidationLoss

# Settings that may not change from one start of a run to the next: with another value, going on is not the same run.
DECISIVE_SETTINGS = (
    "image_size",
    "resize_mode",
    "center_crop",
    "random_flip",
    "image_interpolation_mode",
    "random_vertical_flip",
    "streaming",
    "streaming_buffer_size",
    "dataloader_drop_last",
    "loss_type",
    "huber_c",
    "snr_gamma",
    "noise_offset",
    "input_perturbation",
    "gradient_accumulation_steps",
    "optimizer",
    "mixed_precision",
    "use_ema",
    "seed",
)
# Settings that shape the rest of the run, and are told when they change.
SHAPING_SETTINGS = (
    "train_batch_size",
    "num_epochs",
    "max_train_steps",
    "learning_rate",
    "scale_lr",
    "lr_scheduler",
    "lr_warmup_steps",
    "lr_num_cycles",
    "lr_power",
    "lr_step_rules",
    "loss_scaling",
    "loss_scale",
)
PLACES = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")


Config = TypeVar("Config", bound=EngineConfig)


class TrainingProblem(Problem):
    """Training cannot go on; the message is one line for the user."""


class Stopped(Problem):
    """The run was told to stop by a signal, and has kept what it had."""

    prefix = ""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_status = 128 + signal_number


# --- plan ----------------------------------------------------------------------------------------------------------


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
        return epoch * self.plan.samples_per_epoch + min(batch * self.plan.global_batch_size, self.plan.num_samples)

    def batch_number_after(self, samples: int) -> int:
        """The batch to go on with after so many samples: the one that holds the next sample."""
        epoch, rest = divmod(samples, self.plan.samples_per_epoch)
        return epoch * self.plan.batches_per_epoch + rest // self.plan.global_batch_size


@dataclass
class Progress:
    """Where a run stands: all else is a function of it. ``step`` is the host's guess until the device is asked."""

    step: int = 0
    batch_number: int = 0
    skips: int = 0
    resumed: bool = False
    best: dict[str, Any] | None = None  # figure, value, step, and how it was measured: of --save_best
    measured: dict[str, int] = field(default_factory=dict)  # at which step each measure was last taken


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
    def boundary(self) -> UpdateBoundary:
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
        distributed.meet(self.runtime)
        if self.is_compiled:
            return self.step_cell.run(window)
        self.is_compiled = True
        with graph_cache.kept(graph_key(self)):
            return self.step_cell.run(window)

    @contextlib.contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The network holds the averaged weights inside, where there are any."""
        with self.ema.swapped_in() if self.ema is not None else contextlib.nullcontext():
            yield


# --- put together --------------------------------------------------------------------------------------------------


def settle(config: Config, runtime: Runtime) -> Config:
    """Replace ``auto`` and unset values by what they mean on this machine.

    Raises:
        ConfigError: the machine has no kernels for the precision asked for.
    """
    precision = runtime.default_precision if config.mixed_precision == "auto" else config.mixed_precision
    missing = kernels.missing_precisions(runtime.device)
    if precision in missing:
        others = [name for name in ("no", "fp16", "bf16") if name not in missing]
        raise ConfigError(
            f"--mixed_precision {precision}: this {runtime.device} has no kernels for it; use {' or '.join(others)}"
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
    """Check the configuration, start MindSpore, and settle what depends on the machine.

    Raises:
        ConfigError, RuntimeProblem: before anything is written.
    """
    check(config)
    if config.push_to_hub and is_main_by_environment():  # the only one that uploads
        hub.check_login(config.hub_token)
    if not launched_by_msrun():
        check_output_dir(config)
    runtime = start(config.device, config.mode, config.seed, config.deterministic, config.max_device_memory)
    if launched_by_msrun() and runtime.is_main:  # the others may be here after it has begun to write
        check_output_dir(config)
    return settle(config, runtime), runtime


def assemble(config: EngineConfig, runtime: Runtime, job: Any) -> Training:
    """Plan the run of a job and build its train step.

    Raises:
        DataProblem: fewer images than a batch.
    """
    unet, records = job.unet, job.records
    sizes = (len(records), config.train_batch_size)
    plan = Plan(config.seed, *sizes, runtime.rank, runtime.world_size, config.dataloader_drop_last)
    if plan.global_batch_size > len(records):
        raise DataProblem(
            f"--train_batch_size {config.train_batch_size}: the data set has only {len(records)} images; "
            f"use at most {len(records) // plan.world_size}"
        )
    schedule = Schedule(plan, config.gradient_accumulation_steps, config.num_epochs, config.max_train_steps)
    set_compute_precision(unet, config.mixed_precision)
    models.use_fused_attention(config, unet, runtime.device)
    if config.gradient_checkpointing:
        models.checkpoint_gradients(unet)
    parameters = ms.ParameterTuple(unet.trainable_params())
    distributed.share_parameters(runtime, parameters)
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
    boundary = UpdateBoundary(
        optimizers.make_optimizer(config, parameters),
        rates,
        max_grad_norm=config.max_grad_norm,
        loss_scale=config.loss_scale or 1.0,
        dynamic_scaling=config.loss_scaling == "dynamic",
        ema=make_ema(config, parameters, schedule.total_steps),
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
        return assemble(config, runtime, make_text_to_image_job(config, records, column))
    assert isinstance(config, TrainingConfig)
    with distributed.main_first(runtime):
        records = open_records(config)
    return assemble(config, runtime, make_unconditional_job(config, records))


# --- checkpoints ---------------------------------------------------------------------------------------------------


def identity_of(training: Training) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this run's."""
    names = (*DECISIVE_SETTINGS, *training.job.decisive_settings)
    settings = {name: getattr(training.config, name) for name in names}
    unet = {key: value for key, value in dict(training.unet.config).items() if not key.startswith("_")}
    return {
        **settings,
        "global_batch_size": training.plan.global_batch_size,
        "data": f"{len(training.records)} images, {training.data_fingerprint}",
        "unet": {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(unet.items())},
    }


def graph_key(training: Training) -> str | None:
    """What the compiled step is filed under; None where it is not kept."""
    config, runtime = training.config, training.runtime
    wanted = config.compile_cache == "on" or (config.compile_cache == "auto" and runtime.caches_graphs)
    if not wanted or runtime.mode != "graph" or not is_own(training):
        return None
    # Where it is written, and from where it goes on, are the only settings that surely leave no trace in the graph.
    settings = {name: value for name, value in as_dict(config).items() if name not in PLACES}
    facts = {
        "settings": settings,
        "identity": identity_of(training),
        "schedule": (training.schedule.total_steps, training.plan.num_samples),
        "noise": {name: value for name, value in training.job.scheduler.config.items() if not name.startswith("_")},
        "ranks": (runtime.rank, runtime.world_size, runtime.device),
        "others": training.job.frozen_settings,
        "operators": (kernels.installed(), os.environ.get("ONEDNN_MAX_CPU_ISA")),
        "versions": versions(),
    }
    return graph_cache.fingerprint(facts)


def is_own(training: Training) -> bool:
    """Whether all that is compiled is this package's or mindone's: nobody can know what a user's own cells hold."""
    kinds = [type(training.job), *(type(cell) for _, cell in training.step_cell.cells_and_names())]
    return all(kind.__module__.split(".")[0] in ("mindone_ddpm", "mindone", "mindspore") for kind in kinds)


def save_checkpoint(training: Training, progress: Progress) -> bool:
    """Write ``checkpoint-<step>`` and prune the older ones; whether it was written. Only the main rank does.

    Raises:
        CheckpointProblem: it could not be written, and ``on_checkpoint_error`` says stop.
    """
    config, output_dir = training.config, training.output_dir

    if not training.runtime.is_main:
        return False

    def save_weights(folder: Path) -> None:
        training.job.save_weights(folder / "unet")
        if training.ema is not None:
            with training.ema.swapped_in():
                training.job.save_weights(folder / "unet_ema")

    record = {
        "progress": {
            "step": progress.step,
            "batch_number": progress.batch_number,
            "skips": progress.skips,
            "samples_seen": training.schedule.samples_seen(progress.batch_number),
            "best": progress.best,
            "measured": progress.measured,
        },
        "seed": config.seed,
        "world_size": training.plan.world_size,
        "identity": identity_of(training),
        "config": as_dict(config),
        "versions": versions(),
    }
    try:
        folder = output_dir / f"checkpoint-{progress.step}"
        checkpoint.save_checkpoint(folder, record, training.boundary.state(), save_weights)
    except CheckpointProblem as problem:
        if config.on_checkpoint_error == "stop":
            raise
        tqdm.write(f"warning: {problem}; going on, with the older checkpoints as they were", file=sys.stderr)
        return False
    checkpoint.prune(output_dir, config.checkpoints_total_limit)
    return True


def resume(training: Training) -> Progress:
    """Take up the checkpoint that the configuration names, if any; where the run stands afterwards.

    Raises:
        CheckpointProblem: there is no good one.
        ConfigError: it belongs to another run, and changes are not accepted.
    """
    if training.config.resume_from_checkpoint is None:
        return Progress()
    saved = _read_checkpoint(training) if training.runtime.is_main else None
    saved = distributed.share_object(training.runtime, saved)
    if saved is None:
        return Progress()
    averages = [] if training.ema is None else training.ema.averages
    state = training.boundary.state().values()
    distributed.share_parameters(training.runtime, [*training.unet.trainable_params(), *averages, *state])

    progress = Progress(saved["step"], saved["batch_number"], saved["skips"], resumed=True)
    progress.best, progress.measured = saved.get("best"), saved.get("measured", {})
    if training.schedule.samples_seen(progress.batch_number) != saved["samples_seen"]:
        progress.batch_number = training.schedule.batch_number_after(saved["samples_seen"])
    return progress


def _read_checkpoint(training: Training) -> dict[str, Any] | None:
    """Find the checkpoint, compare it, load its tensors; its progress, or None where there is nothing to resume."""
    output_dir = training.output_dir

    def warn(text: str) -> None:
        tqdm.write(f"warning: {text}", file=sys.stderr)

    found = checkpoint.find_checkpoint(str(training.config.resume_from_checkpoint), output_dir, warn)
    if found is None:
        return None
    folder, record = found
    _compare(training, folder, record)
    parameters, file = training.job.named_parameters(), training.job.weights_file
    checkpoint.load_parameters(folder / "unet" / file, parameters)
    if training.ema is not None:
        # A run that had no average so far starts one from where it is.
        source = "unet_ema" if (folder / "unet_ema").is_dir() else "unet"
        averages = training.ema.beside(parameters)
        checkpoint.load_parameters(folder / source / file, averages)
    scale = training.boundary.loss_scale.asnumpy()
    checkpoint.load_parameters(folder / checkpoint.STATE_TENSORS, training.boundary.state().items())
    if training.config.loss_scaling == "static":
        training.boundary.loss_scale.set_data(ms.Tensor(scale))  # what the flags say now
    saved = record["progress"]
    for path in checkpoint.set_aside_after(output_dir, saved["step"]):
        warn(f"a later checkpoint is set aside as {path.name}")
    tqdm.write(f" resumed: {folder}, step {saved['step']:,}, {saved['samples_seen']:,} samples seen")
    return saved


def _compare(training: Training, folder: Path, record: dict[str, Any]) -> None:
    """Say how the run differs from the checkpoint's; refuse differences that decide the result."""
    old, new = record["identity"], identity_of(training)
    differences = []
    for name in new:
        if name == "unet":
            keys = [key for key in new["unet"] if old["unet"].get(key) != new["unet"][key]]
            differences += [f"unet {key} is {new['unet'][key]}, was {old['unet'].get(key)}" for key in keys]
        elif old.get(name) != new[name]:
            differences.append(f"{name} is {new[name]}, was {old.get(name)}")
    if differences and not training.config.accept_changes:
        raise ConfigError(
            *(f"--resume_from_checkpoint {folder}: {difference}" for difference in differences),
            "--accept_changes: give it to resume all the same, or set the values back",
        )
    shaping = [(name, record["config"].get(name), getattr(training.config, name)) for name in SHAPING_SETTINGS]
    shaping.append(("ranks", record["world_size"], training.plan.world_size))
    differences += [f"{name} is {now}, was {before}" for name, before, now in shaping if before != now]
    for difference in differences:
        tqdm.write(f" changed: {difference}")


# --- what happens on the way ---------------------------------------------------------------------------------------


class Report:
    """The bar and the tracker. Losses stay on the device until :meth:`fetch`."""

    def __init__(self, training: Training, progress: Progress, tracker: tracking.Tracker):
        self.training, self.progress, self.tracker = training, progress, tracker
        self.images_per_step = training.plan.global_batch_size * training.config.gradient_accumulation_steps
        self.known_step = progress.step
        self.pending: list[tuple[ms.Tensor, ms.Tensor, ms.Tensor]] = []
        self.since = time.perf_counter()
        self.bar = tqdm(
            total=training.schedule.total_steps,
            initial=progress.step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not training.runtime.is_main,
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the rate."""
        paused_at = time.perf_counter()
        yield
        self.since += time.perf_counter() - paused_at

    def fetch(self) -> None:
        """Bring what is pending to the host, settle the true step, and show and track it.

        Raises:
            TrainingProblem: a loss is not finite, or too many updates were skipped in a row.
        """
        if not self.pending:
            return
        results = [tuple(value.asnumpy().item() for value in result) for result in self.pending]
        self.pending = []
        seconds = max(time.perf_counter() - self.since, 1e-9)
        self.since = time.perf_counter()
        boundary, progress, rates = self.training.boundary, self.progress, self.training.rates
        progress.step, progress.skips = int(boundary.step.asnumpy()), int(boundary.skips.asnumpy())

        occasional = {
            "train/images_per_second": len(results) * self.images_per_step / seconds,
            "train/skipped_updates": float(progress.skips),
            "train/loss_scale": float(boundary.loss_scale.asnumpy()),
        }
        made = [(loss, norm) for loss, norm, consecutive_skips in results if consecutive_skips == 0]
        for loss, norm in made:
            rate = float(rates[min(self.known_step, len(rates) - 1)])
            self.known_step += 1
            values = {"train/loss": loss, "train/learning_rate": rate, "train/grad_norm": norm}
            self.tracker.scalars(self.known_step, values | (occasional if self.known_step == progress.step else {}))
            text = f"loss {loss:.4f}, lr {rate:.2e}, {occasional['train/images_per_second']:.1f} img/s"
            self.bar.set_postfix_str(text + (f", {progress.skips} skipped" if progress.skips else ""), refresh=False)
        self.bar.n = progress.step
        self.bar.refresh()
        self._check(results, occasional["train/loss_scale"])

    def _check(self, results: list[tuple[float, ...]], loss_scale: float) -> None:
        config = self.training.config
        if config.mixed_precision == "no" and not all(np.isfinite(loss) for loss, _, _ in results):
            raise TrainingProblem(
                f"the loss after step {self.progress.step} is not finite; the weights were not touched by it. "
                "Try a lower --learning_rate, and look at the images with `mindone-ddpm preview`"
            )
        if max(consecutive_skips for _, _, consecutive_skips in results) > config.max_consecutive_skips:
            raise TrainingProblem(
                f"more than {config.max_consecutive_skips} updates in a row were skipped, because gradients were not "
                f"finite at a loss scale of {loss_scale:g}; try --loss_scaling dynamic, a lower --loss_scale, "
                "a lower --learning_rate, or --mixed_precision no"
            )

    def close(self) -> None:
        self.bar.close()


class StopRequest:
    """SIGTERM and SIGINT: the first asks the loop to stop after its step, the second ends the process at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        interrupt_watch.receiver = self._receive
        numbers = [signal.SIGTERM] if interrupt_watch.started else [signal.SIGTERM, signal.SIGINT]
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        interrupt_watch.receiver = None
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object = None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number
        tqdm.write("stopping after this step; once more to leave at once", file=sys.stderr)

    @property
    def requested(self) -> bool:
        return self.signal_number is not None


class LookStopped(Exception):
    """Leaves a grid of samples, or a measure, unfinished."""


def save_samples(
    training: Training, epoch: int, progress: Progress, tracker: tracking.Tracker, stop: StopRequest, watch: Watch
) -> None:
    """Write ``samples/<epoch>.png``: a grid from generators of its own, so that training's randomness is left alone.

    Each rank makes its share of the pictures. Beside, ``trajectory.png``: how the first few came out of the noise.
    """
    job, runtime = training.job, training.runtime
    share = -(-job.num_samples // runtime.world_size)
    numbers = range(runtime.rank * share, (runtime.rank + 1) * share)
    bar = tqdm(
        total=job.num_sampling_steps,
        desc=f"sampling, epoch {epoch}",
        unit="step",
        leave=False,
        dynamic_ncols=True,
        disable=not runtime.is_main,
    )

    steps_done = 0
    trajectory = sampling.Trajectory(job.num_sampling_steps)

    def on_step(images: Any) -> None:
        nonlocal steps_done
        steps_done += 1
        bar.update()
        watch.enter("sampling")
        if job.steps_show_pictures and runtime.is_main:
            trajectory.add(images)
        # Ranks must agree, and asking them costs a little.
        if (runtime.world_size == 1 or steps_done % 20 == 0) and distributed.any_rank(runtime, stop.requested):
            raise LookStopped

    with bar, contextlib.suppress(LookStopped), training.evaluation_weights():
        values = distributed.gather_rows(runtime, job.sample(numbers, on_step))[: job.num_samples]
        if runtime.is_main:
            grid = sampling.make_grid(sampling.to_pixels(values))
            if write_grid(grid, samples_path(training, epoch)):
                tracker.picture(progress.step, "samples", grid)
            if trajectory.frames:
                write_grid(trajectory.strip(), training.output_dir / sampling.TRAJECTORY_STRIP)


def shows_samples(training: Training) -> bool:
    return training.config.save_image_epochs > 0 and training.job.num_samples > 0


def samples_path(training: Training, epoch: int) -> Path:
    return training.output_dir / "samples" / f"{epoch:04d}.png"


def write_grid(grid: Image.Image, path: Path) -> bool:
    """Write a grid, whole or not at all; whether it is there. A full disk costs the grid, not the run."""
    beside = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(exist_ok=True)
        grid.save(beside, format="png")
        os.replace(beside, path)
        return True
    except OSError as error:
        tqdm.write(f"warning: {path}: the samples could not be written ({error.strerror or error})", file=sys.stderr)
        return False
    finally:
        beside.unlink(missing_ok=True)


def save_pipeline(training: Training) -> None:
    """Save the pipeline, with the averaged weights where there are any.

    Raises:
        TrainingProblem: it could not be written.
    """
    if not training.runtime.is_main:
        return
    with training.evaluation_weights():
        pipeline = training.job.pipeline()
        try:
            checkpoint.save_pipeline(pipeline, training.output_dir, training.config.save_dtype)
        except Exception as error:  # OSError, or safetensors' own for the same
            raise TrainingProblem(
                f"{training.output_dir}: the pipeline could not be saved ({first_line(error)})"
            ) from error


def publish(training: Training, progress: Progress, uploader: hub.Uploader | None) -> None:
    """Write the model card, and send what is there to the Hub if that is asked for."""
    if not training.runtime.is_main:
        return
    try:
        write_card(training.config, training.job, training.output_dir, progress.step, training.schedule.total_steps)
    except Exception as error:  # a full disk, a tracker's file that somebody else has changed: never worth a run
        tqdm.write(f"warning: the model card could not be written ({first_line(error)})", file=sys.stderr)
    if uploader is not None:
        uploader.submit(f"Pipeline after step {progress.step}")


def open_output_dir(training: Training, progress: Progress) -> None:
    """Make the output folder ready: cleared for a new run, tidied for one that goes on."""
    if not training.runtime.is_main:
        return
    output_dir = training.output_dir
    if not progress.resumed:
        if checkpoint.run_products(output_dir):
            tracking.clear_logs(output_dir / training.config.logging_dir)
        checkpoint.clear_run(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint.clear_leftovers(output_dir)
    checkpoint.write_text(output_dir / checkpoint.RUN_CONFIG, to_yaml(training.config))


def evaluate_quality(
    training: Training,
    progress: Progress,
    evaluator: Evaluator,
    tracker: tracking.Tracker,
    on_batch: Callable[[str], None],
) -> None:
    """Compute the figures with the averaged weights, track and show them, and keep the best pipeline."""
    with training.evaluation_weights():
        found = evaluator.figures(lambda: on_batch("evaluating"))
    tracker.scalars(progress.step, {f"eval/{name}": value for name, value in found.items()})
    if training.runtime.is_main:
        figures = ", ".join(f"{name} {value:.5g}" for name, value in found.items() if not name.endswith("_std"))
        tqdm.write(f"step {progress.step:,}: {figures}", file=sys.stderr)
    figure = evaluator.config.save_best
    if figure is None:
        return
    now = {"figure": figure, "value": found[evaluator.named(figure)], "step": progress.step, **evaluator.conditions}
    if is_better(now, progress.best):
        progress.best = now
        save_best(training, now)


def is_better(now: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Whether a value takes the place of the best one; of figures measured otherwise, the newer counts."""
    facts = now.keys() - {"value", "step"}
    if best is None or any(now[name] != best.get(name) for name in facts):
        return True
    return now["value"] > best["value"] if FIGURES[now["figure"]] else now["value"] < best["value"]


def save_best(training: Training, about: dict[str, Any]) -> None:
    """Write the pipeline into ``best/``, and of what it is the best beside it."""
    if not training.runtime.is_main:
        return
    folder = training.output_dir / checkpoint.BEST
    with training.evaluation_weights():
        try:
            checkpoint.save_pipeline(training.job.pipeline(), folder, training.config.save_dtype)
            checkpoint.write_text(folder / "best.json", json.dumps(about) + "\n")
        except Exception as error:  # OSError, or safetensors' own for the same
            tqdm.write(f"warning: {folder}: could not be written ({first_line(error)})", file=sys.stderr)


@dataclass
class Measure:
    """Something that is measured every so many steps (0: never in between), and at the end."""

    name: str
    every: int
    run: Callable[[], None]


def make_measures(
    training: Training,
    progress: Progress,
    tracker: tracking.Tracker,
    watch: Watch,
    stop: StopRequest,
    evaluator: Evaluator | None,
) -> list[Measure]:
    config = training.config
    measures: list[Measure] = []
    if not isinstance(config, TrainingConfig):
        return measures

    def on_batch(doing: str) -> None:
        watch.enter(doing)
        if distributed.any_rank(training.runtime, stop.requested):
            raise LookStopped

    held_out = training.records.held_out
    if held_out is not None:
        validation = ValidationLoss(
            training.runtime,
            training.unet,
            training.job.scheduler,
            held_out,
            config.validation_num_images,
            config.train_batch_size,
        )
        measure = partial(evaluate_validation_loss, training, progress, validation, tracker, on_batch)
        measures.append(Measure("validation_loss", config.validation_loss_steps, measure))
    if evaluator is not None:
        measure = partial(evaluate_quality, training, progress, evaluator, tracker, on_batch)
        measures.append(Measure("quality", config.eval_metrics_steps, measure))
    return measures


def take_measures(measures: list[Measure], progress: Progress, over: bool) -> bool:
    """Take those that are due at this step, and were not taken yet; whether a request to stop came in between."""
    for measure in measures:
        due = over or is_due(progress.step, measure.every)
        if not due or progress.measured.get(measure.name) == progress.step:
            continue
        try:
            measure.run()
        except LookStopped:
            return True
        progress.measured[measure.name] = progress.step
    return False


def evaluate_validation_loss(
    training: Training,
    progress: Progress,
    validation: ValidationLoss,
    tracker: tracking.Tracker,
    on_batch: Callable[[str], None],
) -> None:
    """Compute the loss on the pictures put aside, with the averaged weights; track it and show its mean."""
    with training.evaluation_weights():
        found = validation.figures(lambda: on_batch("measuring the validation loss"))
    tracker.scalars(progress.step, {f"eval/{name}": value for name, value in found.items()})
    if training.runtime.is_main:
        tqdm.write(f"step {progress.step:,}: validation_loss {found['validation_loss']:.5g}", file=sys.stderr)


def make_evaluator(training: Training) -> Evaluator | None:
    """What computes figures on the way, where they are asked for; says beforehand what that costs."""
    config = training.config
    if not isinstance(config, TrainingConfig) or config.eval_metrics is None:
        return None
    evaluator = Evaluator(config, training.runtime, training.job)
    evaluator.prepare()
    steps = training.schedule.total_steps
    times = 1 if not config.eval_metrics_steps else -(-steps // config.eval_metrics_steps)
    images = steps * training.plan.global_batch_size * config.gradient_accumulation_steps
    if training.runtime.is_main:
        cost = evaluator.share_of_training(images, times)
        seen = f"and {config.eval_features} looks at {config.eval_num_samples:,} pictures each time"
        tqdm.write(
            f"{'figures':>8}: {config.eval_metrics}, {times} time(s), some {cost:.0%} of the training's time, {seen}"
        )
    return evaluator


def is_due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


# --- the loop ------------------------------------------------------------------------------------------------------


def train(config: EngineConfig) -> Path:
    """Train as configured; the folder returned holds a pipeline that ``DDPMPipeline.from_pretrained`` loads.

    Raises:
        ConfigError, DataProblem, RuntimeProblem, CheckpointProblem: before anything is written.
        TrainingProblem: training cannot go on.
        Stopped: a signal asked for it; a checkpoint was written.
    """
    return train_loop(prepare(config))


def train_loop(training: Training) -> Path:
    """Run the loop to its end and save the pipeline; returns its folder. Raises what :func:`train` does."""
    # Prepare.
    config, runtime, schedule = training.config, training.runtime, training.schedule
    watch = Watch(runtime, config.step_timeout_s)
    if runtime.is_main:
        for name, value in training.describe().items():
            tqdm.write(f"{name:>8}: {value}")
    watch.enter("taking up the checkpoint")
    progress = resume(training)
    watch.leave()
    if training.job.needs_pictures:
        training.records.cache(config.cache_images_mib, show_progress=runtime.is_main)
    with distributed.main_first(runtime):
        training.job.before_training(show_progress=runtime.is_main)
    evaluator = make_evaluator(training)
    open_output_dir(training, progress)
    logs = training.output_dir / config.logging_dir
    trackers = config.report_to if runtime.is_main else "none"
    tracker = tracking.make_tracker(trackers, logs, progress.step, as_dict(config))
    report = Report(training, progress, tracker)
    saved_step = progress.step if progress.resumed else None
    windows = training.windows(progress.batch_number)
    over = schedule.is_over(progress.step, progress.batch_number)
    uploader = hub.Uploader(config, training.output_dir) if config.push_to_hub and runtime.is_main else None

    # Loop.
    with StopRequest() as stop, contextlib.closing(report), contextlib.closing(tracker):
        measures = make_measures(training, progress, tracker, watch, stop, evaluator)
        # What a stop left out before.
        stopping = progress.resumed and take_measures(measures, progress, over)
        while not over:
            watch.enter("waiting for data", share_of_limit=0.5)
            window = next(windows)
            watch.enter("in a step, where ranks wait for each other")
            report.pending.append(training.step(window))
            progress.step += 1
            progress.batch_number += len(window)

            epoch, epoch_ends = schedule.epoch(progress.batch_number)
            if (
                epoch_ends
                or (stop.requested and runtime.world_size == 1)
                or schedule.is_over(progress.step, progress.batch_number)
                or is_due(progress.step, config.logging_steps)
                or is_due(progress.step, config.checkpointing_steps)
                or stopping
                or any(is_due(progress.step, measure.every) for measure in measures)
            ):
                report.fetch()  # from here on the step is the true one: skipped updates do not count
                stopping = distributed.any_rank(runtime, stop.requested or stopping)
            over = schedule.is_over(progress.step, progress.batch_number)

            with report.paused():
                stopping = stopping or take_measures(measures, progress, over)
                due = is_due(progress.step, config.checkpointing_steps) or (over and config.checkpointing_steps > 0)
                if (due or stopping) and progress.step != saved_step and save_checkpoint(training, progress):
                    saved_step = progress.step
                if stopping and not over:
                    watch.enter("waiting for the others to stop")
                    distributed.barrier(runtime)  # nobody leaves before the checkpoint is whole
                    raise Stopped(stop.signal_number or signal.SIGTERM, stop_message(training, progress, saved_step))
                saves = over or (epoch_ends and is_due(epoch, config.save_model_epochs))
                if saves:
                    save_pipeline(training)
                if shows_samples(training) and (over or (epoch_ends and is_due(epoch, config.save_image_epochs))):
                    save_samples(training, epoch, progress, tracker, stop, watch)
                if saves and not over:
                    publish(training, progress, uploader)

        # Finish. A run that was killed after its last checkpoint has all but these.
        if runtime.is_main and not (training.output_dir / training.job.product_file).exists():
            save_pipeline(training)
        epoch, _ = schedule.epoch(progress.batch_number)
        missing = shows_samples(training) and not samples_path(training, epoch).exists()
        if distributed.share_object(runtime, missing) and not stop.requested:
            save_samples(training, epoch, progress, tracker, stop, watch)
        watch.enter("waiting for the others to end")
        distributed.barrier(runtime)
        watch.leave()
    # After the last word between the ranks, which do not wait for each other as long as an upload may take.
    publish(training, progress, uploader)
    if uploader is not None:
        uploader.finish()
    return training.output_dir


def stop_message(training: Training, progress: Progress, saved_step: int | None) -> str:
    where = f"stopped at step {progress.step:,} of {training.schedule.total_steps:,}"
    if training.runtime.is_main and saved_step != progress.step:
        return f"{where}; no checkpoint of it could be written"
    return f"{where}; the same command with --resume_from_checkpoint auto goes on from there"

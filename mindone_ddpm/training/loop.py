"""The one training loop. :func:`train_loop` reads from top to bottom: prepare, loop, finish."""

from __future__ import annotations

import contextlib
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mindone_ddpm.averages import snapshots
from mindone_ddpm.common.errors import UserError
from mindone_ddpm.common.files import write_text
from mindone_ddpm.common.locks import FolderLock
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.config.parse import to_yaml
from mindone_ddpm.evaluation.evaluator import Evaluator
from mindone_ddpm.output import hub, run_folder, run_state, tracking
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.distributed import Watchdog
from mindone_ddpm.runtime.signals import StopRequest
from mindone_ddpm.training.callbacks import (
    EvaluatorRunner,
    ProgressReport,
    SampleGrids,
    is_due,
    publish,
    save_product,
    save_snapshot,
)
from mindone_ddpm.training.resume import resume, save_checkpoint
from mindone_ddpm.training.run import Training
from mindone_ddpm.training.schedule import Progress
from mindone_ddpm.training.setup import prepare


class Stopped(UserError):
    """A signal, or ``max_hours``, stopped the run, after a checkpoint was written."""

    prefix = ""

    def __init__(self, signal_number: int | None, message: str):
        super().__init__(message)
        self.signal_number = signal_number

    def exit_status(self) -> int:
        """128 + the signal's number; 0 where the time was over."""
        return 0 if self.signal_number is None else 128 + self.signal_number


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves: its folder, the optimizer steps done, and the updates skipped."""

    output_dir: Path
    steps: int
    skipped_updates: int


def train(config: EngineConfig) -> TrainingResult:
    """Train as configured. The result's ``output_dir`` holds a pipeline that mindone and diffusers load.

    Raises:
        ConfigError, DataError, DeviceError, CheckpointError: before anything is written.
        TrainingError: training cannot go on.
        Stopped: a signal asked for it, or the time is over; a checkpoint was written.
    """
    return train_loop(prepare(config))


def train_loop(training: Training) -> TrainingResult:
    """Run the loop to its end and save the result. Raises what :func:`train` does."""
    lock = FolderLock(training.output_dir, "--output_dir")
    with lock.hold() if training.runtime.is_main else contextlib.nullcontext():
        try:
            result = _train_loop(training, lock)
        except BaseException as error:
            is_asked_for = isinstance(error, (Stopped, KeyboardInterrupt))
            write_end(training, run_state.STOPPED if is_asked_for else run_state.FAILED, error)
            raise
        write_end(training, run_state.FINISHED)
        return result


def _train_loop(training: Training, lock: FolderLock) -> TrainingResult:
    # Prepare.
    config, runtime, schedule, job = training.config, training.runtime, training.schedule, training.job
    watchdog = Watchdog(runtime, config.step_timeout_s)
    if runtime.is_main:
        for name, value in training.describe().items():
            tqdm.write(f"{name:>8}: {value}")
    watchdog.enter("resuming from the checkpoint")
    progress = resume(training)
    watchdog.leave()
    job.before_training(show_progress=runtime.is_main)
    evaluators = prepare_evaluators(training)
    open_output_dir(training, progress)
    tracker = open_tracker(training, progress)
    report = ProgressReport(training, progress, tracker)
    uploader = hub.Uploader(config, training.output_dir) if config.push_to_hub and runtime.is_main else None
    saved_step = progress.step if progress.resumed else None
    windows = training.windows(progress.batch_number)
    over = schedule.is_over(progress.step, progress.batch_number)

    # Loop.
    with StopRequest(config.max_hours) as stop, contextlib.closing(report), contextlib.closing(tracker):
        runner = EvaluatorRunner(training, progress, tracker, stop, watchdog, evaluators)
        samples = SampleGrids(training, tracker, stop, watchdog)
        # Evaluators that an earlier stop left out.
        stopping = progress.resumed and runner.run_due(over)
        while not over:
            watchdog.enter("waiting for data", share_of_limit=0.5)
            window = next(windows)
            watchdog.enter("in a step, where ranks wait for each other")
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
                or is_due(progress.step, config.snapshot_steps)
                or is_due(progress.step, config.save_image_steps)
                or stopping
                or runner.any_is_due()
            ):
                report.fetch()  # from here on the step is the true one: skipped updates do not count
                stopping = distributed.any_rank(runtime, stop.requested or stopping)
            over = schedule.is_over(progress.step, progress.batch_number)

            with report.paused():
                stopping = stopping or runner.run_due(over)
                due = is_due(progress.step, config.checkpointing_steps) or (over and config.checkpointing_steps > 0)
                if due or stopping or epoch_ends:
                    restore_output_dir(training, lock)
                if is_due(progress.step, config.snapshot_steps) or (over and config.snapshot_steps > 0):
                    save_snapshot(training, progress.step)
                if (due or stopping) and progress.step != saved_step and save_checkpoint(training, progress):
                    saved_step = progress.step
                if stopping and not over:
                    watchdog.enter("waiting for the others to stop")
                    distributed.barrier(runtime)  # nobody leaves before the checkpoint is complete
                    number = stop.signal_number
                    if distributed.any_rank(runtime, number is not None):
                        number = number or signal.SIGTERM
                    raise Stopped(number, stop_message(training, progress, saved_step))
                saves = over or (epoch_ends and is_due(epoch, config.save_model_epochs))
                if saves:
                    save_product(training)
                if samples.are_wanted and (over or samples.are_due(epoch, epoch_ends, progress.step)):
                    samples.save(epoch, progress.step)
                if saves and not over:
                    publish(training, progress, uploader)

        # Finish. A run that was killed after its last checkpoint lacks only these.
        if runtime.is_main and not (training.output_dir / job.product.index_file).exists():
            save_product(training)
        epoch, _ = schedule.epoch(progress.batch_number)
        missing = samples.are_wanted and not samples.path(epoch, progress.step).exists()
        if distributed.broadcast_object(runtime, missing) and not stop.requested:
            samples.save(epoch, progress.step)
        watchdog.enter("waiting for the others to end")
        distributed.barrier(runtime)
        watchdog.leave()
    # After the last collective: ranks do not wait for each other as long as an upload may take.
    publish(training, progress, uploader)
    if runtime.is_main and job.product.advice:
        tqdm.write(job.product.advice)
    if uploader is not None:
        uploader.finish()
    return TrainingResult(training.output_dir, progress.step, progress.skips)


def prepare_evaluators(training: Training) -> list[Evaluator]:
    """The job's evaluators, ready to run; says beforehand what they cost."""
    evaluators = training.job.evaluators()
    for evaluator in evaluators:
        evaluator.prepare()
        cost = evaluator.describe_cost(training.schedule.total_steps, training.images_per_step)
        if cost and training.runtime.is_main:
            tqdm.write(f"{'metrics':>8}: {cost}")
    return evaluators


def open_output_dir(training: Training, progress: Progress) -> None:
    """Make the output folder ready: cleared for a new run, leftovers removed for one that resumes."""
    if not training.runtime.is_main:
        return
    output_dir = training.output_dir
    if not progress.resumed:
        if run_folder.run_products(output_dir, training.job.product):
            tracking.clear_logs(output_dir / training.config.logging_dir)
        run_folder.clear_run(output_dir, training.job.product)
    snapshots.remove_after(output_dir, progress.step)
    output_dir.mkdir(parents=True, exist_ok=True)
    run_folder.clear_leftovers(output_dir)
    write_settings(training)
    total_steps, ranks = training.schedule.total_steps, training.runtime.world_size
    run_state.write_start(output_dir, total_steps, training.images_per_step, ranks)


def write_end(training: Training, state: str, error: BaseException | None = None) -> None:
    """Record how the run ended."""
    if training.runtime.is_main:
        run_state.write_end(training.output_dir, state, error)


def restore_output_dir(training: Training, lock: FolderLock) -> None:
    """If the output folder was removed meanwhile, make it again with what every run's has, and say so."""
    if training.runtime.is_main and lock.is_lost():
        tqdm.write(
            f"warning: {training.output_dir}: was removed or replaced while the run writes to it; it is made again, "
            "without what it held",
            file=sys.stderr,
        )
        lock.acquire()
        write_settings(training)


def write_settings(training: Training) -> None:
    """Write ``training_config.yaml``."""
    text = to_yaml(training.config, training.job.product.command)
    write_text(training.output_dir / run_folder.RUN_CONFIG, text)


def open_tracker(training: Training, progress: Progress) -> tracking.Tracker:
    config = training.config
    if not training.runtime.is_main:
        return tracking.Trackers()
    logs = training.output_dir / config.logging_dir
    return tracking.make_tracker(config.report_to, logs, progress.step, as_dict(config))


def stop_message(training: Training, progress: Progress, saved_step: int | None) -> str:
    where = f"stopped at step {progress.step:,} of {training.schedule.total_steps:,}"
    if training.runtime.is_main and saved_step != progress.step:
        return f"{where}; no checkpoint of it could be written"
    return f"{where}; the same command with --resume_from_checkpoint auto goes on from there"

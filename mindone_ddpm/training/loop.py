"""The one loop. :func:`train_loop` reads from top to bottom: prepare, loop, finish."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tqdm import tqdm

from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.output import hub, tracking
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.distributed import Watchdog
from mindone_ddpm.runtime.signals import StopRequest
from mindone_ddpm.training.callbacks import (
    Report,
    is_due,
    make_evaluator,
    make_measures,
    open_output_dir,
    publish,
    samples_path,
    save_pipeline,
    save_samples,
    shows_samples,
    take_measures,
)
from mindone_ddpm.training.resume import resume, save_checkpoint
from mindone_ddpm.training.schedule import Progress
from mindone_ddpm.training.setup import Stopped, Training, prepare


def train(config: EngineConfig) -> Path:
    """Train as configured; the folder returned holds a pipeline that ``DDPMPipeline.from_pretrained`` loads.

    Raises:
        ConfigError, DataError, DeviceError, CheckpointError: before anything is written.
        TrainingError: training cannot go on.
        Stopped: a signal asked for it; a checkpoint was written.
    """
    return train_loop(prepare(config))


def train_loop(training: Training) -> Path:
    """Run the loop to its end and save the pipeline; returns its folder. Raises what :func:`train` does."""
    # Prepare.
    config, runtime, schedule = training.config, training.runtime, training.schedule
    watch = Watchdog(runtime, config.step_timeout_s)
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
    tracker: tracking.Tracker = tracking.Trackers()
    if runtime.is_main:
        tracker = tracking.make_tracker(config.report_to, logs, progress.step, as_dict(config))
    report = Report(training, progress, tracker)
    saved_step = progress.step if progress.resumed else None
    windows = training.windows(progress.batch_number)
    over = schedule.is_over(progress.step, progress.batch_number)
    uploader = (
        hub.Uploader(config, training.output_dir, training.job.product)
        if config.push_to_hub and runtime.is_main
        else None
    )

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
        if runtime.is_main and not (training.output_dir / training.job.product.index_file).exists():
            save_pipeline(training)
        epoch, _ = schedule.epoch(progress.batch_number)
        missing = shows_samples(training) and not samples_path(training, epoch).exists()
        if distributed.broadcast_object(runtime, missing) and not stop.requested:
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

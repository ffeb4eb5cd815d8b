"""The one loop. :func:`train_loop` reads from top to bottom: prepare, loop, finish."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_ddpm.common.errors import first_line
from mindone_ddpm.common.files import atomic_path, write_text
from mindone_ddpm.config.groups import FIGURES
from mindone_ddpm.config.parse import to_yaml
from mindone_ddpm.evaluation.in_training import Evaluator
from mindone_ddpm.evaluation.validation_loss import ValidationLoss
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.output import hub, run_folder, tracking
from mindone_ddpm.output.card import write_card
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.distributed import Watchdog
from mindone_ddpm.runtime.signals import StopRequest
from mindone_ddpm.sampling import grids
from mindone_ddpm.training.schedule import Progress
from mindone_ddpm.training.setup import Training, TrainingError


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
        """Bring what is pending to the host, resolve_auto the true step, and show and track it.

        Raises:
            TrainingError: a loss is not finite, or too many updates were skipped in a row.
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
            raise TrainingError(
                f"the loss after step {self.progress.step} is not finite; the weights were not touched by it. "
                "Try a lower --learning_rate, and look at the images with `mindone-ddpm preview`"
            )
        if max(consecutive_skips for _, _, consecutive_skips in results) > config.max_consecutive_skips:
            raise TrainingError(
                f"more than {config.max_consecutive_skips} updates in a row were skipped, because gradients were not "
                f"finite at a loss scale of {loss_scale:g}; try --loss_scaling dynamic, a lower --loss_scale, "
                "a lower --learning_rate, or --mixed_precision no"
            )

    def close(self) -> None:
        self.bar.close()


class LookStopped(Exception):
    """Leaves a grid of samples, or a measure, unfinished."""


def save_samples(
    training: Training, epoch: int, progress: Progress, tracker: tracking.Tracker, stop: StopRequest, watch: Watchdog
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
    trajectory = grids.Trajectory(job.num_sampling_steps)

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
            grid = grids.make_grid(grids.to_pixels(values))
            if write_grid(grid, samples_path(training, epoch)):
                tracker.image(progress.step, "samples", grid)
            if trajectory.frames:
                write_grid(trajectory.strip(), training.output_dir / grids.TRAJECTORY_STRIP)


def shows_samples(training: Training) -> bool:
    return training.config.save_image_epochs > 0 and training.job.num_samples > 0


def samples_path(training: Training, epoch: int) -> Path:
    return training.output_dir / "samples" / f"{epoch:04d}.png"


def write_grid(grid: Image.Image, path: Path) -> bool:
    """Write a grid; whether it was written. A full disk costs the grid, not the run."""
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as tmp_path:
            grid.save(tmp_path, format="png")
        return True
    except OSError as error:
        tqdm.write(f"warning: {path}: the samples could not be written ({error.strerror or error})", file=sys.stderr)
        return False


def save_pipeline(training: Training) -> None:
    """Save the pipeline, with the averaged weights where there are any.

    Raises:
        TrainingError: it could not be written.
    """
    if not training.runtime.is_main:
        return
    try:
        save_product(training, training.output_dir)
    except Exception as error:  # OSError, or safetensors' own for the same
        raise TrainingError(f"{training.output_dir}: the pipeline could not be saved ({first_line(error)})") from error


def save_product(training: Training, folder: Path) -> None:
    def save(tmp_path: Path) -> None:
        training.job.pipeline().save_pretrained(str(tmp_path), safe_serialization=True)

    with training.evaluation_weights():
        run_folder.save_product(save, training.job.product.index_file, folder, training.config.save_dtype)


def publish(training: Training, progress: Progress, uploader: hub.Uploader | None) -> None:
    """Write the model card, and send what is there to the Hub if that is asked for."""
    if not training.runtime.is_main:
        return
    try:
        job, total_steps = training.job, training.schedule.total_steps
        write_card(training.config, job.product, job.describe(), training.output_dir, progress.step, total_steps)
    except Exception as error:  # a full disk, a file that somebody else has changed: never worth a run
        tqdm.write(f"warning: the model card could not be written ({first_line(error)})", file=sys.stderr)
    if uploader is not None:
        uploader.submit(f"{training.job.product.noun.capitalize()} after step {progress.step}")


def open_output_dir(training: Training, progress: Progress) -> None:
    """Make the output folder ready: cleared for a new run, tidied for one that goes on."""
    if not training.runtime.is_main:
        return
    output_dir = training.output_dir
    if not progress.resumed:
        if run_folder.run_products(output_dir, training.job.product):
            tracking.clear_logs(output_dir / training.config.logging_dir)
        run_folder.clear_run(output_dir, training.job.product)
    output_dir.mkdir(parents=True, exist_ok=True)
    run_folder.clear_leftovers(output_dir)
    write_text(output_dir / run_folder.RUN_CONFIG, to_yaml(training.config))


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
    folder = training.output_dir / run_folder.BEST
    try:
        save_product(training, folder)
        write_text(folder / run_folder.BEST_RECORD, json.dumps(about) + "\n")
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
    watch: Watchdog,
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

"""What happens between the steps of a run: progress, samples, checkpoints, pipelines, evaluators."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_ddpm.averages import snapshots
from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import atomic_path, write_text
from mindone_ddpm.config.groups import HIGHER_IS_BETTER
from mindone_ddpm.config.values import TRAJECTORY_STRIP
from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.scaling import to_pixels
from mindone_ddpm.evaluation.evaluator import Evaluator
from mindone_ddpm.output import hub, run_folder
from mindone_ddpm.output.card import write_card
from mindone_ddpm.output.tracking import Tracker
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.distributed import Watchdog
from mindone_ddpm.runtime.signals import StopRequest
from mindone_ddpm.sampling.images import Trajectory
from mindone_ddpm.training.run import Training
from mindone_ddpm.training.schedule import Progress

STEPS_BETWEEN_STOP_CHECKS = 20  # of sampling, where ranks must agree: each check is a collective


class TrainingError(UserError):
    """Training cannot go on; the message is one line for the user."""


class EvaluationStopped(Exception):
    """A request to stop arrived during sampling or an evaluator, which is left unfinished."""


def is_due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


class ProgressReport:
    """The progress bar and the tracker. Losses stay on the device until :meth:`fetch`."""

    def __init__(self, training: Training, progress: Progress, tracker: Tracker):
        self.training, self.progress, self.tracker = training, progress, tracker
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
        """Leave the time spent inside out of the rate."""
        paused_at = time.perf_counter()
        yield
        self.since += time.perf_counter() - paused_at

    def fetch(self) -> None:
        """Copy pending results to the host, set the true step, show and track them.

        Raises:
            TrainingError: a loss is not finite, or too many updates were skipped in a row.
        """
        if not self.pending:
            return
        results = [tuple(value.asnumpy().item() for value in result) for result in self.pending]
        self.pending = []
        seconds = max(time.perf_counter() - self.since, 1e-9)
        self.since = time.perf_counter()
        update, progress, rates = self.training.update, self.progress, self.training.rates
        progress.step, progress.skips = int(update.step.asnumpy()), int(update.skips.asnumpy())

        occasional = {
            "train/images_per_second": len(results) * self.training.images_per_step / seconds,
            "train/skipped_updates": float(progress.skips),
            "train/loss_scale": float(update.loss_scale.asnumpy()),
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


# --- samples -------------------------------------------------------------------------------------------------------


@dataclass
class SampleGrids:
    """Grids of samples, from generators of their own: training's randomness stays as it is.

    They are ``samples/<epoch>.png``, or ``samples/step-<step>.png`` with ``save_image_steps``.

    Each rank makes its share of the images. ``trajectory.png`` shows how the first few come out of the noise.
    """

    training: Training
    tracker: Tracker
    stop: StopRequest
    watchdog: Watchdog

    @property
    def are_wanted(self) -> bool:
        config = self.training.config
        return (config.save_image_epochs > 0 or config.save_image_steps > 0) and self.training.job.num_samples > 0

    def are_due(self, epoch: int, epoch_ends: bool, step: int) -> bool:
        config = self.training.config
        if config.save_image_steps > 0:
            return is_due(step, config.save_image_steps)
        return epoch_ends and is_due(epoch, config.save_image_epochs)

    def path(self, epoch: int, step: int) -> Path:
        name = f"step-{step:06d}" if self.training.config.save_image_steps > 0 else f"{epoch:04d}"
        return self.training.output_dir / "samples" / f"{name}.png"

    def save(self, epoch: int, step: int) -> None:
        """Make and write a grid; a request to stop leaves it unwritten."""
        job, runtime = self.training.job, self.training.runtime
        share = -(-job.num_samples // runtime.world_size)
        sample_ids = range(runtime.rank * share, (runtime.rank + 1) * share)
        trajectory = Trajectory(job.num_sampling_steps)
        with (
            self._bar(f"epoch {epoch}, step {step}") as bar,
            contextlib.suppress(EvaluationStopped),
            self.training.averaged_weights(),
        ):
            values = job.sample(sample_ids, self._make_on_step(bar, trajectory))
            values = distributed.gather_rows(runtime, values)[: job.num_samples]
            if runtime.is_main:
                grid = make_grid(to_pixels(values))
                if write_grid(grid, self.path(epoch, step)):
                    self.tracker.image(step, "samples", grid)
                if trajectory.frames:
                    write_grid(trajectory.strip(), self.training.output_dir / TRAJECTORY_STRIP)

    def _bar(self, when: str) -> tqdm:
        return tqdm(
            total=self.training.job.num_sampling_steps,
            desc=f"sampling, {when}",
            unit="step",
            leave=False,
            dynamic_ncols=True,
            disable=not self.training.runtime.is_main,
        )

    def _make_on_step(self, bar: tqdm, trajectory: Trajectory) -> Callable[[ms.Tensor], None]:
        job, runtime = self.training.job, self.training.runtime
        steps_done = 0

        def on_step(images: ms.Tensor) -> None:
            nonlocal steps_done
            steps_done += 1
            bar.update()
            self.watchdog.enter("sampling")
            if job.steps_show_images and runtime.is_main:
                trajectory.add(images)
            asks = runtime.world_size == 1 or steps_done % STEPS_BETWEEN_STOP_CHECKS == 0
            if asks and distributed.any_rank(runtime, self.stop.requested):
                raise EvaluationStopped

        return on_step


def write_grid(grid: Image.Image, path: Path) -> bool:
    """Write a grid; whether it was written. A full disk costs the grid, not the run."""
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as tmp_path:
            grid.save(tmp_path, format="png")
    except OSError as error:
        tqdm.write(f"warning: {path}: the samples could not be written ({error.strerror or error})", file=sys.stderr)
        return False
    return True


# --- results -------------------------------------------------------------------------------------------------------


def save_product(training: Training, folder: Path | None = None) -> None:
    """Save the job's result (a pipeline, adapters), with the averaged weights where there are any.

    Raises:
        TrainingError: it could not be written.
    """
    if not training.runtime.is_main:
        return
    folder = folder or training.output_dir
    with training.averaged_weights():
        try:
            run_folder.save_product(training.job.product, training.job.save, folder, training.config.save_dtype)
        except Exception as error:  # OSError, or safetensors' own for the same
            noun = training.job.product.noun
            raise TrainingError(f"{folder}: the {noun} could not be saved ({first_line(error)})") from error


def publish(training: Training, progress: Progress, uploader: hub.Uploader | None) -> None:
    """Write the model card, and send what is there to the Hub if that is asked for."""
    if not training.runtime.is_main:
        return
    job = training.job
    try:
        total_steps = training.schedule.total_steps
        write_card(training.config, job.product, job.describe(), training.output_dir, progress.step, total_steps)
    except Exception as error:  # a full disk, a metrics file that somebody else has changed: never worth a run
        tqdm.write(f"warning: the model card could not be written ({first_line(error)})", file=sys.stderr)
    if uploader is not None:
        uploader.submit(f"{job.product.noun.capitalize()} after step {progress.step}")


def save_snapshot(training: Training, step: int) -> None:
    """Write a snapshot of the power averages. A full disk costs the snapshot, not the run."""
    if not training.runtime.is_main:
        return
    networks = training.job.weights()
    averages = {
        width: {
            network: {name: part.asnumpy() for name, part in average.averaged(weights.parameters())}
            for network, weights in networks.items()
        }
        for width, average in training.update.power_averages.items()
    }
    try:
        snapshots.write_snapshot(training.output_dir, step, averages)
    except Exception as error:  # OSError, or safetensors' own for the same
        folder = training.output_dir / snapshots.FOLDER
        tqdm.write(f"warning: {folder}: the snapshot could not be written ({first_line(error)})", file=sys.stderr)


# --- evaluators ----------------------------------------------------------------------------------------------------


@dataclass
class EvaluatorRunner:
    """Runs a job's evaluators when they are due, tracks their metrics, and saves the best product."""

    training: Training
    progress: Progress
    tracker: Tracker
    stop: StopRequest
    watchdog: Watchdog
    evaluators: list[Evaluator] = field(default_factory=list)

    def any_is_due(self) -> bool:
        return any(is_due(self.progress.step, evaluator.every) for evaluator in self.evaluators)

    def run_due(self, is_over: bool) -> bool:
        """Run those that are due at this step and did not run yet; whether a request to stop arrived meanwhile."""
        for evaluator in self.evaluators:
            due = is_over or is_due(self.progress.step, evaluator.every)
            if not due or self.progress.evaluated.get(evaluator.name) == self.progress.step:
                continue
            try:
                self._run(evaluator)
            except EvaluationStopped:
                return True
            self.progress.evaluated[evaluator.name] = self.progress.step
        return False

    def _run(self, evaluator: Evaluator) -> None:
        def on_batch() -> None:
            self.watchdog.enter(f"evaluating {evaluator.name}")
            if distributed.any_rank(self.training.runtime, self.stop.requested):
                raise EvaluationStopped

        step = self.progress.step
        with self.training.averaged_weights():
            found = evaluator.run(on_batch)
        self.tracker.scalars(step, {f"eval/{name}": value for name, value in found.items()})
        if self.training.runtime.is_main:
            text = ", ".join(f"{name} {found[name]:.5g}" for name in evaluator.shown(found))
            tqdm.write(f"step {step:,}: {text}", file=sys.stderr)
        metric = evaluator.best_metric
        if metric is None:
            return
        now = {"figure": metric, "value": found[evaluator.key_of(metric)], "step": step, **evaluator.conditions}
        if is_better(now, self.progress.best):
            self.progress.best = now
            self._save_best(now)

    def _save_best(self, about: dict[str, Any]) -> None:
        """Save the product into ``best/``, with a file that says what it is the best of."""
        if not self.training.runtime.is_main:
            return
        folder = self.training.output_dir / run_folder.BEST
        try:
            save_product(self.training, folder)
            write_text(folder / run_folder.BEST_RECORD, json.dumps(about) + "\n")
        except (TrainingError, OSError) as error:
            tqdm.write(f"warning: {folder}: could not be written ({first_line(error)})", file=sys.stderr)


def is_better(now: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Whether a value replaces the best one. Where the conditions differ, values do not compare: the newer counts."""
    facts = now.keys() - {"value", "step"}
    if best is None or any(now[name] != best.get(name) for name in facts):
        return True
    return now["value"] > best["value"] if HIGHER_IS_BETTER[now["figure"]] else now["value"] < best["value"]

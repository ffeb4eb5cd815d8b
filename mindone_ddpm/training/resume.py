"""Write a run's checkpoint, and resume from one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mindspore as ms
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import versions
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.output import checkpoint
from mindone_ddpm.output.checkpoint import CheckpointError
from mindone_ddpm.runtime import distributed
from mindone_ddpm.training.identity import differences, identity_of
from mindone_ddpm.training.run import Training
from mindone_ddpm.training.schedule import Progress
from mindone_ddpm.training.weights import refresh


def save_checkpoint(training: Training, progress: Progress) -> bool:
    """Write ``checkpoint-<step>`` and remove the oldest; whether it was written. Only the main rank does.

    Raises:
        CheckpointError: it could not be written, and ``on_checkpoint_error`` is ``stop``.
    """
    if not training.runtime.is_main:
        return False
    config, output_dir = training.config, training.output_dir

    def save_weights(folder: Any) -> None:
        for name, network in training.job.weights().items():
            network.save(folder / name)
            if training.ema is not None:
                with training.ema.swapped_in():
                    network.save(folder / f"{name}_ema")

    try:
        folder = output_dir / f"checkpoint-{progress.step}"
        checkpoint.save_checkpoint(folder, record_of(training, progress), training.update.state(), save_weights)
    except CheckpointError as error:
        if config.on_checkpoint_error == "stop":
            raise
        tqdm.write(f"warning: {error}; going on, with the older checkpoints as they were", file=sys.stderr)
        return False
    checkpoint.prune(output_dir, config.checkpoints_total_limit)
    return True


def record_of(training: Training, progress: Progress) -> dict[str, Any]:
    """What goes into a checkpoint's ``training_state.json``, without the list of files."""
    return {
        "progress": {
            "step": progress.step,
            "batch_number": progress.batch_number,
            "skips": progress.skips,
            "samples_seen": training.plan.samples_before(progress.batch_number),
            "best": progress.best,
            "measured": progress.evaluated,
        },
        "seed": training.config.seed,
        "world_size": training.plan.world_size,
        "identity": identity_of(training),
        "config": as_dict(training.config),
        "versions": versions(),
    }


def resume(training: Training) -> Progress:
    """Load the checkpoint that the configuration names, if any; where the run stands afterwards.

    Raises:
        CheckpointError: there is no good one.
        ConfigError: it belongs to another run, and changes are not accepted.
    """
    if training.config.resume_from_checkpoint is None:
        return Progress()
    saved = load_checkpoint(training) if training.runtime.is_main else None
    saved = distributed.broadcast_object(training.runtime, saved)
    if saved is None:
        return Progress()
    averages = [] if training.ema is None else training.ema.averages
    state = training.update.state().values()
    distributed.broadcast_parameters(training.runtime, [*training.job.trainable().values(), *averages, *state])

    refresh(training.update.weights)
    progress = Progress(saved["step"], saved["batch_number"], saved["skips"], resumed=True)
    progress.best, progress.evaluated = saved.get("best"), saved.get("measured", {})
    if training.plan.samples_before(progress.batch_number) != saved["samples_seen"]:
        progress.batch_number = training.plan.batch_after(saved["samples_seen"])
    return progress


def warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)


def find_checkpoint(training: Training) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to resume from, and its record; None where there is none. Says what has changed since.

    Raises:
        CheckpointError, ConfigError: as :func:`resume`.
    """
    config = training.config
    if config.resume_from_checkpoint is None:
        return None
    found = checkpoint.find_checkpoint(str(config.resume_from_checkpoint), training.output_dir, warn)
    if found is None:
        return None
    folder, record = found
    locked, reported = differences(training, record)
    if locked and not config.accept_changes:
        raise ConfigError(
            *(f"--resume_from_checkpoint {folder}: {difference}" for difference in locked),
            "--accept_changes: give it to resume all the same, or set the values back",
        )
    for difference in (*locked, *reported):
        tqdm.write(f" changed: {difference}")
    return found


def load_checkpoint(training: Training) -> dict[str, Any] | None:
    """Find the checkpoint and load its tensors; its progress, or None where there is nothing to resume."""
    found = find_checkpoint(training)
    if found is None:
        return None
    folder, record = found
    for name, network in training.job.weights().items():
        checkpoint.load_parameters(folder / name / network.file_name, network.parameters())
        if training.ema is not None:
            # A run that had no average so far starts one from the current weights.
            source = f"{name}_ema" if (folder / f"{name}_ema").is_dir() else name
            averages = training.ema.averaged(network.parameters())
            checkpoint.load_parameters(folder / source / network.file_name, averages)
    scale = training.update.loss_scale.asnumpy()
    checkpoint.load_parameters(folder / checkpoint.STATE_TENSORS, training.update.state().items())
    if training.config.loss_scaling == "static":
        training.update.loss_scale.set_data(ms.Tensor(scale))  # what the flags say now
    saved = record["progress"]
    for path in checkpoint.set_aside_after(training.output_dir, saved["step"]):
        warn(f"a later checkpoint is renamed to {path.name}")
    tqdm.write(f" resumed: {folder}, step {saved['step']:,}, {saved['samples_seen']:,} samples seen")
    return saved

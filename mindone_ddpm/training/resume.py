"""The one loop. :func:`train_loop` reads from top to bottom: prepare, loop, finish."""

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
from mindone_ddpm.training.identity import SHAPING_SETTINGS, identity_of
from mindone_ddpm.training.schedule import Progress
from mindone_ddpm.training.setup import Training


def save_checkpoint(training: Training, progress: Progress) -> bool:
    """Write ``checkpoint-<step>`` and prune the older ones; whether it was written. Only the main rank does.

    Raises:
        CheckpointError: it could not be written, and ``on_checkpoint_error`` says stop.
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
    except CheckpointError as problem:
        if config.on_checkpoint_error == "stop":
            raise
        tqdm.write(f"warning: {problem}; going on, with the older checkpoints as they were", file=sys.stderr)
        return False
    checkpoint.prune(output_dir, config.checkpoints_total_limit)
    return True


def resume(training: Training) -> Progress:
    """Take up the checkpoint that the configuration names, if any; where the run stands afterwards.

    Raises:
        CheckpointError: there is no good one.
        ConfigError: it belongs to another run, and changes are not accepted.
    """
    if training.config.resume_from_checkpoint is None:
        return Progress()
    saved = _read_checkpoint(training) if training.runtime.is_main else None
    saved = distributed.broadcast_object(training.runtime, saved)
    if saved is None:
        return Progress()
    averages = [] if training.ema is None else training.ema.averages
    state = training.boundary.state().values()
    distributed.broadcast_parameters(training.runtime, [*training.unet.trainable_params(), *averages, *state])

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

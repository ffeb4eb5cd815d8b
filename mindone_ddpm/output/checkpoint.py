"""Checkpoints: written, checked, found.

A checkpoint ``checkpoint-<step>/`` holds a folder for each network that is trained (such as ``unet/``) and, with EMA,
one for its average (``unet_ema/``), ``training_state.safetensors`` (optimizer moments, counters, loss scale) and
``training_state.json`` (progress, configuration, versions, and the size and SHA-256 of every other file). safetensors
and JSON only: reading one runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import ops
from safetensors import safe_open

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import (
    atomic_folder,
    check_regular,
    files_in,
    load_safetensors,
    save_safetensors,
    sha256_of,
)
from mindone_ddpm.output import records
from mindone_ddpm.output.records import STATE_RECORD, checkpoints_in

STATE_TENSORS = "training_state.safetensors"


class CheckpointError(UserError):
    """A checkpoint cannot be read or written; the message is one line for the user."""


# --- writing -------------------------------------------------------------------------------------------------------


def save_checkpoint(
    folder: Path, record: dict[str, Any], state: dict[str, ms.Parameter], save_weights: Callable[[Path], None]
) -> None:
    """Write a checkpoint atomically.

    Args:
        record: the content of ``training_state.json``, to which the list of files is added.
        state: the content of ``training_state.safetensors``.
        save_weights: writes the networks' folders into the folder that it is given.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """
    try:
        with atomic_folder(folder) as tmp_path:
            save_weights(tmp_path)
            arrays = {name: parameter.asnumpy() for name, parameter in state.items()}
            save_safetensors(arrays, tmp_path / STATE_TENSORS)
            text = json.dumps({**record, "files": describe_files(tmp_path)}, indent=2)
            (tmp_path / STATE_RECORD).write_text(text, encoding="utf-8")
    except Exception as error:  # a full disk shows as OSError here, and as an error of its own in safetensors
        reason = first_line(error)
        raise CheckpointError(f"{folder}: the checkpoint could not be written ({reason})") from error


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file below a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files_in(folder)
    }


def prune(folder: Path, total_limit: int | None) -> None:
    """Remove all checkpoints but the newest ``total_limit``; with None, none."""
    if total_limit is not None:
        for _, path in checkpoints_in(folder)[:-total_limit]:
            shutil.rmtree(path, ignore_errors=True)


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints later than ``step``, from which a run resumes, to ``abandoned-checkpoint-<step>``."""
    renamed = []
    for number, path in checkpoints_in(folder):
        if number > step:
            target = folder / f"abandoned-{path.name}"
            shutil.rmtree(target, ignore_errors=True)
            os.rename(path, target)
            renamed.append(target)
    return renamed


# --- reading -------------------------------------------------------------------------------------------------------


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint, after its files were compared with it.

    Raises:
        CheckpointError: the record, or a file, is missing or damaged, or differs from what was written.
    """
    try:
        record = records.read_record(folder / STATE_RECORD)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: {STATE_RECORD} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{folder}: {STATE_RECORD} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{folder}: {STATE_RECORD} is damaged: {error}") from error
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if path.stat().st_size != expected["bytes"] or sha256_of(path) != expected["sha256"]:
            raise CheckpointError(f"{folder}: {name} is damaged")
        if path.suffix == ".safetensors":
            read_arrays(path, names_only=True)
    return record


def read_arrays(path: Path, names_only: bool = False) -> dict[str, Any]:
    """The arrays of a safetensors file, by name; with ``names_only`` its head alone is read.

    Raises:
        CheckpointError: it is none.
    """
    try:
        if names_only:
            check_regular(path)
            with safe_open(path, framework="np") as file:
                return dict.fromkeys(file.keys())
        return load_safetensors(path)
    except Exception as error:  # OSError, or safetensors' own
        raise CheckpointError(f"{path}: is damaged ({first_line(error)})") from error


def find_checkpoint(wanted: str, output_dir: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to resume from, and its record.

    Args:
        wanted: ``latest``; ``auto``, which is like latest, but gives None where there is no checkpoint; or a folder.
        warn: called with a line for each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: there is no good one.
    """
    if wanted not in ("latest", "auto"):
        folder = next((path for path in (Path(wanted), output_dir / wanted) if path.is_dir()), None)
        if folder is None:
            raise CheckpointError(f"--resume_from_checkpoint {wanted}: no such folder")
        return folder, read_record(folder)
    candidates = [path for _, path in reversed(checkpoints_in(output_dir))]
    for folder in candidates:
        try:
            return folder, read_record(folder)
        except CheckpointError as error:
            warn(f"{error}; taking the one before")
    if candidates:
        raise CheckpointError(f"--resume_from_checkpoint {wanted}: every checkpoint in {output_dir} is damaged")
    if wanted == "latest":
        raise CheckpointError(f"--resume_from_checkpoint latest: no checkpoint in {output_dir}")
    return None


def load_parameters(path: Path, parameters: Iterable[tuple[str, ms.Parameter]]) -> None:
    """Set parameters from a safetensors file, by name. Values are converted to the type of each parameter.

    Raises:
        CheckpointError: the file holds other names or shapes.
    """
    arrays = read_arrays(path)
    named = dict(parameters)
    if set(arrays) != set(named):
        different = sorted(set(arrays) ^ set(named))
        raise CheckpointError(f"{path}: holds other parameters than this run's, for example {different[0]}")
    for name, parameter in named.items():
        array = arrays[name]
        if tuple(array.shape) != tuple(parameter.shape):
            raise CheckpointError(f"{path}: {name} has shape {array.shape}, this run's has {tuple(parameter.shape)}")
        ops.assign(parameter, ms.Tensor(array, parameter.dtype))  # in place: it may be a view

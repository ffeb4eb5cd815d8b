"""Checkpoints, what a run leaves in its folder, and how the newest good checkpoint is found.

A checkpoint ``checkpoint-<step>/`` holds ``unet/`` and, with EMA, ``unet_ema/`` in diffusers' folder form,
``training_state.safetensors`` (optimiser moments, counters, loss scale) and ``training_state.json`` (progress,
configuration, versions, and the size and SHA-256 of every other file). safetensors and JSON only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from safetensors.numpy import load_file, save_file

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import files_in, sha256_of, write_folder, write_into_folder
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.models.lora import WEIGHTS_FILE as LORA_WEIGHTS
from mindone_ddpm.output.product import Product
from mindone_ddpm.sampling.grids import TRAJECTORY_STRIP

RUN_CONFIG = "training_config.yaml"


SNAPSHOT_PREFIX = ".upload-"  # folders of files that are being uploaded


PRODUCT_RECORD = "product.json"  # what a folder holds: command, index file, parts
BEST = "best"  # folder of the best pipeline


STATE_RECORD = "training_state.json"


STATE_TENSORS = "training_state.safetensors"


PIPELINE_PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "feature_extractor")


class CheckpointError(UserError):
    """A checkpoint cannot be read or written; the message is one line for the user."""


def save_product(product: Product, save: Callable[[Path], None], folder: Path, dtype: str = "float32") -> None:
    """Save what a run makes into ``folder``, which may hold other files; its index file is moved last.

    Args:
        save: writes the product into the folder that it is given.
        dtype: of the weights: ``float32``, ``fp16`` or ``bf16``.
    """

    def write(tmp_path: Path) -> None:
        save(tmp_path)
        if dtype != "float32":
            for weights in tmp_path.rglob("*.safetensors"):
                _convert_weights(weights, dtype)
        about = {"command": product.command, "index_file": product.index_file, "parts": list(product.parts)}
        (tmp_path / PRODUCT_RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    write_into_folder(folder, write, last=product.index_file)


def parts_of_product(folder: Path) -> list[str]:
    """The folders of the product in a run's folder, as the record says and as earlier versions wrote them."""
    recorded: list[str] = []
    try:
        parts = json.loads((folder / PRODUCT_RECORD).read_text(encoding="utf-8"))["parts"]
        # Names alone: a record must not lead out of the folder.
        recorded = [part for part in parts if isinstance(part, str) and part == Path(part).name]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return sorted({part for part in (*PIPELINE_PARTS, *recorded) if (folder / part).is_dir()})


def _convert_weights(path: Path, dtype: str) -> None:
    import ml_dtypes

    target = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}[dtype]
    weights = {name: array.astype(target) for name, array in load_file(path).items()}
    save_file(weights, path, metadata={"format": "np"})


def grids_in(folder: Path) -> list[Path]:
    """A run's grids of samples, by epoch."""
    return sorted((folder / "samples").glob("*.png"), key=lambda path: (len(path.stem), path.stem))


def run_products(folder: Path) -> list[Path]:
    """What a run has left behind in a folder: pipeline, samples, checkpoints, its configuration."""
    names = (PIPELINE_INDEX, RUN_CONFIG, LORA_WEIGHTS, "samples", TRAJECTORY_STRIP, BEST, *parts_of_product(folder))
    names = (*names, PRODUCT_RECORD)
    return [folder / name for name in names if (folder / name).exists()] + sorted(folder.glob("checkpoint-*"))


def clear_run(folder: Path) -> None:
    """Remove what an earlier run left, but the trackers' files; all other files stay. The index goes first."""
    for path in run_products(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of a process that was killed while it wrote."""
    for pattern in (".checkpoint-*.tmp", ".checkpoint-*.old", ".product.tmp", ".pipeline.tmp", f"{SNAPSHOT_PREFIX}*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.glob(".*.tmp*"), *(folder / "samples").glob(".*.tmp*")):
        if path.is_file():
            path.unlink()


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of each checkpoint, the oldest first."""
    found = []
    for path in folder.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and path.is_dir():
            found.append((int(number.group(1)), path))
    return sorted(found)


def prune(folder: Path, total_limit: int | None) -> None:
    """Keep the newest ``total_limit`` checkpoints."""
    if total_limit is not None:
        for _, path in checkpoints_in(folder)[:-total_limit]:
            shutil.rmtree(path, ignore_errors=True)


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints later than ``step``, which a run that goes on from there leaves behind."""
    renamed = []
    for number, path in checkpoints_in(folder):
        if number > step:
            target = folder / f"abandoned-{path.name}"
            shutil.rmtree(target, ignore_errors=True)
            os.rename(path, target)
            renamed.append(target)
    return renamed


def save_checkpoint(
    folder: Path, record: dict[str, Any], state: dict[str, ms.Parameter], save_weights: Callable[[Path], None]
) -> None:
    """Write a checkpoint atomically.

    Args:
        record: what goes into ``training_state.json``.
        state: what goes into ``training_state.safetensors``.
        save_weights: writes the networks' folders into the folder that it is given.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """

    def write(tmp_path: Path) -> None:
        save_weights(tmp_path)
        save_file({name: parameter.asnumpy() for name, parameter in state.items()}, tmp_path / STATE_TENSORS)
        files = {
            str(path.relative_to(tmp_path)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files_in(tmp_path)
        }
        text = json.dumps({**record, "files": files}, indent=2)
        (tmp_path / STATE_RECORD).write_text(text, encoding="utf-8")

    try:
        write_folder(folder, write)
    except Exception as error:  # a full disk shows as OSError here, and as an error of its own in safetensors
        reason = first_line(error)
        raise CheckpointError(f"{folder}: the checkpoint could not be written ({reason})") from error


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint, after its files were compared with it.

    Raises:
        CheckpointError: a file is missing or is not what was written.
    """
    try:
        record = json.loads((folder / STATE_RECORD).read_text(encoding="utf-8"))
        files = record["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {STATE_RECORD} is missing or damaged") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if path.stat().st_size != expected["bytes"] or sha256_of(path) != expected["sha256"]:
            raise CheckpointError(f"{folder}: {name} is damaged")
    return record


def find_checkpoint(wanted: str, output_dir: Path, warn: Callable[[str], None]) -> tuple[Path, dict] | None:
    """The checkpoint to resume from, and its record.

    Args:
        wanted: ``latest``, ``auto`` (like latest, or None where there is none), or a folder.
        warn: told of each damaged checkpoint that is passed over.

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
        except CheckpointError as problem:
            warn(f"{problem}; taking the one before")
    if candidates:
        raise CheckpointError(f"--resume_from_checkpoint {wanted}: every checkpoint in {output_dir} is damaged")
    if wanted == "latest":
        raise CheckpointError(f"--resume_from_checkpoint latest: no checkpoint in {output_dir}")
    return None


def load_parameters(path: Path, parameters: Iterable[tuple[str, ms.Parameter]]) -> None:
    """Set parameters from a safetensors file, by name; all of them, in shape and type.

    Raises:
        CheckpointError: the file holds other names, shapes or types.
    """
    arrays = load_file(path)
    named = dict(parameters)
    if set(arrays) != set(named):
        odd = sorted(set(arrays) ^ set(named))
        raise CheckpointError(f"{path}: holds other parameters than this run's, for example {odd[0]}")
    for name, parameter in named.items():
        array = arrays[name]
        if tuple(array.shape) != tuple(parameter.shape):
            raise CheckpointError(f"{path}: {name} has shape {array.shape}, this run's has {tuple(parameter.shape)}")
        parameter.set_data(ms.Tensor(array, parameter.dtype))

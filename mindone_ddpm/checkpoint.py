"""What is written to disk, whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

PIPELINE_INDEX = "model_index.json"
RUN_CONFIG = "training_config.yaml"


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a half."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    sync_to_disk(beside)
    os.replace(beside, path)


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Save a pipeline into ``folder``, which may hold other things: written beside, flushed, then moved in.

    The index comes last: where it is, all that it names is there.
    """
    beside = folder / ".pipeline.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        pipeline.save_pretrained(str(beside), safe_serialization=True)
        files = sorted(path.relative_to(beside) for path in beside.rglob("*") if path.is_file())
        for name in sorted(files, key=lambda file: file.name == PIPELINE_INDEX):
            sync_to_disk(beside / name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(beside / name, folder / name)
            sync_to_disk((folder / name).parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def run_products(folder: Path) -> list[Path]:
    """What a run has left behind in a folder: pipeline, samples, checkpoints, its configuration."""
    names = (PIPELINE_INDEX, RUN_CONFIG, "unet", "scheduler", "samples")
    return [folder / name for name in names if (folder / name).exists()] + sorted(folder.glob("checkpoint-*"))


def clear_run(folder: Path, logging_dir: str) -> None:
    """Remove what an earlier run left, its logs included; other files stay. The index goes first."""
    logs = folder / logging_dir
    for path in [*run_products(folder), *([logs] if logs.is_dir() else [])]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

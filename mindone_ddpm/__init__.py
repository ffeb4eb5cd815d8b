"""Train diffusion models with MindSpore and mindone, on Ascend, GPU or CPU."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use: importing the package does not import MindSpore.
_PUBLIC = {
    "TrainingConfig": "jobs.unconditional.config",
    "TextToImageConfig": "jobs.text_to_image.config",
    "SampleConfig": "sampling.config",
    "InpaintConfig": "sampling.config",
    "InterpolateConfig": "sampling.config",
    "PUBLISHED_SCRIPT_DEFAULTS": "jobs.unconditional.config",
    "ConfigError": "common.errors",
    "parse_training_arguments": "cli",
    "run": "cli",
    "begin": "training.setup",
    "main_first": "runtime.distributed",
    "open_records": "data.records",
    "make_unet": "models.unet",
    "make_noise_scheduler": "models.schedulers",
    "num_parameters": "models.unet",
    "write_preview": "data.preview",
    "make_grid": "sampling.grids",
    "to_pixels": "sampling.grids",
    "to_values": "sampling.grids",
    "UnconditionalJob": "jobs.unconditional.job",
    "make_unconditional_job": "jobs.unconditional.job",
    "TextToImageJob": "jobs.text_to_image.job",
    "prepare": "training.setup",
    "build_training": "training.setup",
    "train_loop": "training.loop",
    "train": "training.loop",
    "sample_to_folder": "sampling.generate",
    "prompts_to_folder": "sampling.prompts",
    "inpaint": "sampling.editing",
    "interpolate": "sampling.editing",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mindone_ddpm' has no attribute '{name}'")
    return getattr(importlib.import_module(f"mindone_ddpm.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]

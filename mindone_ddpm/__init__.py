"""Train diffusion models with MindSpore and mindone, on Ascend, GPU or CPU."""

from __future__ import annotations

import importlib
from typing import Any

from mindone_ddpm.runtime import prepare_environment

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use: importing the package does not import MindSpore.
_PUBLIC = {
    "TrainingConfig": "config",
    "TextToImageConfig": "config",
    "SampleConfig": "config",
    "InpaintConfig": "config",
    "InterpolateConfig": "config",
    "PUBLISHED_SCRIPT_DEFAULTS": "config",
    "ConfigError": "config",
    "parse_training_arguments": "cli",
    "run": "cli",
    "begin": "trainer",
    "main_first": "distributed",
    "open_records": "data",
    "make_unet": "models",
    "make_noise_scheduler": "models",
    "num_parameters": "models",
    "write_preview": "preview",
    "make_grid": "sampling",
    "to_pixels": "sampling",
    "to_values": "sampling",
    "UnconditionalJob": "unconditional",
    "make_unconditional_job": "unconditional",
    "TextToImageJob": "text_to_image",
    "prepare": "trainer",
    "assemble": "trainer",
    "train_loop": "trainer",
    "train": "trainer",
    "sample_to_folder": "sampling",
    "prompts_to_folder": "prompting",
    "inpaint": "editing",
    "interpolate": "editing",
}
__all__ = sorted(_PUBLIC)

prepare_environment()  # before anything imports MindSpore


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mindone_ddpm' has no attribute '{name}'")
    return getattr(importlib.import_module(f"mindone_ddpm.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]

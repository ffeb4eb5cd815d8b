"""Train diffusion models with MindSpore and mindone, on Ascend, GPU or CPU."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

# Where each public name is. Loaded on first use: importing the package does not import MindSpore.
_PUBLIC = {
    # configurations
    "TrainingConfig": "jobs.unconditional.config",
    "TextToImageConfig": "jobs.text_to_image.config",
    "TextToImageXLConfig": "jobs.text_to_image.config",
    "DreamBoothConfig": "jobs.dreambooth.config",
    "TextualInversionConfig": "jobs.textual_inversion.config",
    "EngineConfig": "config.groups",
    "SampleConfig": "sampling.config",
    "InpaintConfig": "sampling.config",
    "InterpolateConfig": "sampling.config",
    "EvaluateConfig": "evaluation.config",
    "PUBLISHED_SCRIPT_DEFAULTS": "jobs.unconditional.config",
    # in one call each
    "train": "training.loop",
    "load": "sampling.api",
    "sample": "sampling.api",
    "evaluate": "evaluation.api",
    "inpaint": "sampling.commands",
    "interpolate": "sampling.commands",
    # training step by step
    "start_training": "training.setup",
    "build_training": "training.setup",
    "train_loop": "training.loop",
    "TrainingResult": "training.loop",
    "open_records": "jobs.unconditional.data",
    "write_preview": "jobs.preview",
    "make_unet": "models.unet",
    "num_parameters": "models.unet",
    "make_noise_scheduler": "objectives.choose",
    "UnconditionalJob": "jobs.unconditional.job",
    "TextToImageJob": "jobs.text_to_image.job",
    "DreamBoothJob": "jobs.dreambooth.job",
    "TextualInversionJob": "jobs.textual_inversion.job",
    "main_first": "runtime.distributed",
    # images
    "make_grid": "data.grids",
    "to_pixels": "data.scaling",
    "to_values": "sampling.images",
    # programs and other packages' jobs
    "parse_training_arguments": "cli",
    "run": "cli",
    "Job": "jobs.base",
    "JobSpec": "jobs.base",
    "setting": "config.fields",
    # errors
    "UserError": "common.errors",
    "ConfigError": "common.errors",
    "DataError": "data.images",
    "DeviceError": "runtime.start",
    "RankLostError": "backends.cpu.rendezvous",
    "CheckpointError": "output.checkpoint",
    "HubError": "output.hub",
    "MetricError": "evaluation.statistics",
    "ModelError": "common.errors",
    "TrainingError": "training.callbacks",
    "Stopped": "training.loop",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mindone_ddpm' has no attribute '{name}'")
    return getattr(importlib.import_module(f"mindone_ddpm.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]

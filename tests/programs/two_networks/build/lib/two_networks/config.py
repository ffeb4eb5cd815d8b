"""The settings of the job, free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.models.config import ModelConfig
from mindone_ddpm.objectives.config import NoiseScheduleConfig


@dataclass
class TwoNetworksConfig(NoiseScheduleConfig, ModelConfig, EngineConfig):
    """Training on stripes, which are made in ``train_data_dir`` where they are missing."""

    num_made_images: int = setting(24, "images of stripes to make", low=2, resume="locked")

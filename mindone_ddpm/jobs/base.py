"""Configuration: dataclasses that become the command line, a YAML file and the run's own record.

Never imports MindSpore, so that ``--help`` answers at once. A field's ``metadata`` holds its help text, the other
names by which the published scripts know it, and what it may be; :func:`validate` reports every problem together.
"""

from __future__ import annotations

from typing import Any

from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig, check_text_to_image
from mindone_ddpm.jobs.unconditional.config import TrainingConfig, check_training
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.sampling.config import InpaintConfig, InterpolateConfig, SampleConfig

# What each command takes; those that are not here take no configuration.
CONFIG_OF_COMMAND: dict[str, Any] = {
    "train": TrainingConfig,
    "train_text_to_image": TextToImageConfig,
    "preview": TrainingConfig,
    "sample": SampleConfig,
    "inpaint": InpaintConfig,
    "interpolate": InterpolateConfig,
    "evaluate": EvaluateConfig,
    "push": PushConfig,
}


def check(config: EngineConfig) -> None:
    """Check a training configuration of any kind. Raises ConfigError."""
    if isinstance(config, TrainingConfig):
        check_training(config)
    elif isinstance(config, TextToImageConfig):
        check_text_to_image(config)

"""Settings of the UNet that is trained from scratch or further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import Settings, setting
from mindone_ddpm.models.presets import PRESET_ALIASES, UNET_PRESETS


@dataclass
class ModelConfig(Settings):
    """The UNet."""

    heading: ClassVar[str] = "model"

    channels: int = setting(3, "1 grey, 3 RGB, 4 RGBA", low=1, resume="locked")
    preset: str | None = setting(
        None,
        "size of the UNet; by default the one that fits the image size",
        choices=[*UNET_PRESETS, *PRESET_ALIASES],
    )
    model_config_name_or_path: str | None = setting(
        None, "config.json of a UNet2DModel, or a folder or a Hub name that has one, instead of a preset"
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "pipeline (a folder, or a name on the Hub) to go on from: its UNet and its noise levels"
    )

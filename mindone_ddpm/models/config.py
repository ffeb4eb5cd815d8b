"""Settings of the UNet, and reading its configuration without MindSpore."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from mindone_ddpm.common.json_files import read_table
from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.hub import HubChoice
from mindone_ddpm.config.values import looks_like_hub_name
from mindone_ddpm.models.presets import PRESET_ALIASES, UNET_PRESETS, preset_for


@dataclass
class ModelConfig(HubChoice):
    """The UNet."""

    heading: ClassVar[str] = "model"

    channels: int = setting(3, "1 grey, 3 RGB, 4 RGBA", low=1, resume="locked")
    preset: str | None = setting(
        None,
        "size of the UNet; by default the one that fits the image size",
        choices=[*UNET_PRESETS, *PRESET_ALIASES],
    )
    model_config_name_or_path: str | None = setting(
        None, "config.json of a UNet2DModel, or a folder or a name on the hub that has one, instead of a preset"
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "pipeline (a folder, or a name on the hub) to train further: its UNet and its noise levels"
    )


class UNetSettings(Protocol):
    """What a configuration must have for a UNet to be made from it: ModelConfig, and the size of the images."""

    channels: int
    preset: str | None
    model_config_name_or_path: str | None
    pretrained_model_name_or_path: str | None
    image_size: int
    hub: str


def unet_preset(config: UNetSettings) -> str:
    """The name of the preset that a configuration asks for, or that fits its image size."""
    name = config.preset or preset_for(config.image_size)
    return PRESET_ALIASES.get(name, name)


def read_model_config(config: UNetSettings, problems: list[str]) -> dict[str, Any] | None:
    """The configuration of the UNet: of the preset, or of a local ``config.json``; None if it is on the hub.

    Args:
        problems: one line is added if it cannot be read; then the result is None, too.
    """
    if config.pretrained_model_name_or_path is not None:
        flag, name = "--pretrained_model_name_or_path", config.pretrained_model_name_or_path
        places = [Path(name) / "unet" / "config.json"]
    elif config.model_config_name_or_path is not None:
        flag, name = "--model_config_name_or_path", config.model_config_name_or_path
        places = [Path(name), Path(name) / "config.json", Path(name) / "unet" / "config.json"]
    else:
        return UNET_PRESETS.get(unet_preset(config))
    path = next((place for place in places if os.path.isfile(place)), None)  # false where a name is too long
    if path is None:
        if looks_like_hub_name(name) and not os.path.exists(name):
            return None
        wanted = "pipeline with unet/config.json" if len(places) == 1 else "file, and no folder with a config.json"
        problems.append(f"{flag} {name}: no such {wanted}")
        return None
    try:
        content = read_table(path)
    except (OSError, ValueError) as error:
        problems.append(f"{flag} {name}: {path.name} {error}")
        return None
    kind = content.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        problems.append(f"{flag} {name}: is the configuration of a {kind!s:.100}; a UNet2DModel is needed")
        return None
    return content

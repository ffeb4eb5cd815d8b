"""UNets of known sizes, by name. Free of MindSpore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindone_ddpm.config.values import near_multiples

# Ho et al. 2020, appendix B.
_OF_THE_PAPER: dict[str, Any] = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}

# 113.7 M parameters, attention at 1/16 of the image size.
_LARGE: dict[str, Any] = {
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
}

UNET_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {  # 0.7 M parameters; images from 8x8
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
    },
    "small": {  # 6.5 M parameters with three channels; images from 16x16
        "block_out_channels": (64, 128, 128),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "ddpm-cifar10": {  # 35.7 M parameters; 32x32, attention at 16x16, dropout 0.1
        **_OF_THE_PAPER,
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "dropout": 0.1,
    },
    "tutorial-128": _LARGE,  # made for 128x128
    "ddpm-256": {**_OF_THE_PAPER, **_LARGE},  # made for 256x256, without dropout
}

# Other names of presets.
PRESET_ALIASES = {"tutorial": "tutorial-128"}


def preset_for(image_size: int) -> str:
    """The preset that fits an image size in pixels: tiny below 16, small to 64, tutorial-128 above."""
    if image_size < 16 or image_size % 4:
        return "tiny"
    return "small" if image_size <= 64 else "tutorial-128"


def size_divisor(block_out_channels: Sequence[int]) -> int:
    """What the side of an image must be a multiple of: every block but the last halves it."""
    return 2 ** (len(block_out_channels) - 1)


def check_size(image_size: int, block_out_channels: Sequence[int], flag: str = "--image_size") -> list[str]:
    """One line if a UNet with these blocks cannot take images of this size, else none."""
    divisor = size_divisor(block_out_channels)
    if image_size % divisor == 0:
        return []
    return [
        f"{flag} {image_size}: this UNet halves the image {len(block_out_channels) - 1} times, so the size "
        f"must be a multiple of {divisor}, for example {near_multiples(image_size, divisor)}"
    ]

"""The Inception-v3 of the FID literature: its weights checked, and converted to safetensors (with PyTorch, once)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import save_safetensors

# These shapes identify the FID literature's Inception-v3: other versions have the same names, or 1,000 classes.
INCEPTION_SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
    "Mixed_7c.branch_pool.bn.running_var": (192,),
    "fc.weight": (1008, 2048),
}


def check_inception_shapes(weights: dict[str, np.ndarray]) -> None:
    """Raises ValueError if weights are not those of the FID literature's Inception-v3."""
    for name, shape in INCEPTION_SHAPES.items():
        if name not in weights:
            raise ValueError(f"{name} is missing")
        if weights[name].shape != shape:
            raise ValueError(f"{name} is {weights[name].shape} instead of {shape}")


def convert_inception(source: Path, target: Path) -> None:
    """Convert the file that pytorch-fid publishes to safetensors. PyTorch is needed; it runs no code from the file.

    Raises:
        ConfigError: PyTorch is not installed, or the file holds something else.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError("convert_inception needs PyTorch once: pip install torch") from error

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        weights = {name: np.ascontiguousarray(value.numpy()) for name, value in state.items()}
    except Exception as error:  # torch raises many kinds
        raise ConfigError(f"{source}: could not be read ({first_line(error)})") from error
    try:
        check_inception_shapes(weights)
    except ValueError as error:
        raise ConfigError(f"{source}: is not the weights of the FID literature's Inception-v3 ({error})") from error
    save_safetensors({name: value for name, value in weights.items() if value.dtype == np.float32}, target)

"""Turn weights of others into safetensors. Needs PyTorch, once; not MindSpore."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindone_ddpm.config import ConfigError, first_line


def convert_inception(source: Path, target: Path) -> None:
    """Turn the file that pytorch-fid publishes into safetensors. Needs PyTorch, which reads it without running it.

    Raises:
        ConfigError: PyTorch is not there, or the file is another.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError("convert_inception needs PyTorch once: pip install torch") from error
    from safetensors.numpy import save_file

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        weights = {name: np.ascontiguousarray(value.numpy()) for name, value in state.items()}
    except Exception as error:  # torch raises many kinds
        raise ConfigError(f"{source}: could not be read ({first_line(error)})") from error
    missing = [name for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.bn.running_var", "fc.weight")
               if name not in weights]  # fmt: skip
    if missing:
        raise ConfigError(
            f"{source}: is not the weights of the FID literature's Inception-v3 ({missing[0]} is missing)"
        )
    beside = target.with_name(f".{target.name}.part")
    try:
        save_file({name: value for name, value in weights.items() if value.dtype == np.float32}, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)

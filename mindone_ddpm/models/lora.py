"""Low-rank adapters (LoRA, Hu et al. 2021): ``W x + (alpha / rank) B A x``, where only A and B are trained.

They are saved in diffusers' LoRA format, which ``load_lora_weights`` of mindone and of diffusers reads. mindone's
adapter layers do not compile in graph mode; those here do. For sampling, adapters are merged into the weights, so that
they cost no time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint
from safetensors.numpy import load_file

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import save_safetensors
from mindone_ddpm.models.precision import half, linear

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"  # in diffusers' format
STATE_FILE = "adapters.safetensors"  # in a checkpoint


class AdaptedLinear(mint.nn.Linear):
    """A Linear with an adapter: ``lora_down`` (A, of shape (rank, in)) and ``lora_up`` (B, (out, rank)), float32."""

    def construct(self, x):
        x = x.astype(self.compute_dtype)
        weight, bias = half(self)
        down, up = self.lora_down, self.lora_up
        if self.lora_down_copy is not None:
            down, up = self.lora_down_copy, self.lora_up_copy
        low = linear(x, down.astype(self.compute_dtype), None)
        update = linear(low, up.astype(self.compute_dtype), None)
        if self.adapter_scale != 1.0:
            update = self.adapter_scale * update
        return linear(x, weight, bias) + update


def add_adapters(network: Any, rank: int, alpha: float | None, targets: Sequence[str]) -> None:
    """Freeze a network and add an adapter to each Linear whose name ends in one of ``targets``, in place.

    A is drawn from N(0, 1 / rank^2), B is zero, so the output of the network does not change.

    Args:
        alpha: None: equal to the rank, so that the scale is 1.

    Raises:
        ConfigError: no layer has such a name.
    """
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    generator = np.random.default_rng(ms.get_seed() or 0)
    found = set()
    for name, cell in network.cells_and_names():
        target = next((target for target in targets if name == target or name.endswith(f".{target}")), None)
        if target is None or type(cell) is not mint.nn.Linear:
            continue
        found.add(target)
        down = generator.standard_normal((rank, cell.in_features)) / rank
        cell.lora_down = ms.Parameter(ms.Tensor(down, ms.float32), name=f"{name}.lora_down")
        cell.lora_up = ms.Parameter(ms.Tensor(np.zeros((cell.out_features, rank)), ms.float32), name=f"{name}.lora_up")
        cell.adapter_scale = (rank if alpha is None else alpha) / rank
        cell.compute_dtype = ms.float32
        cell.weight_copy = cell.bias_copy = cell.lora_down_copy = cell.lora_up_copy = None
        cell.__class__ = AdaptedLinear
    missing = [target for target in targets if target not in found]
    if missing:
        raise ConfigError(f"--lora_target_modules {','.join(missing)}: no linear layer of the UNet has such a name")


def named_adapters(network: Any) -> list[tuple[str, ms.Parameter]]:
    """The parameters of a network's adapters, by their names in a checkpoint: the layer's, and lora_down or lora_up."""
    return [
        (f"{name}.{kind}", getattr(cell, kind))
        for name, cell in network.cells_and_names()
        if isinstance(cell, AdaptedLinear)
        for kind in ("lora_down", "lora_up")
    ]


def save_state(network: Any, folder: Path) -> None:
    """Write the adapters of a network into a new folder, for a checkpoint."""
    folder.mkdir(parents=True)
    save_safetensors({name: parameter.asnumpy() for name, parameter in named_adapters(network)}, folder / STATE_FILE)


def save_adapters(network: Any, folder: Path) -> None:
    """Write the adapters of a UNet into a folder, in diffusers' format; B is multiplied by alpha / rank."""
    weights = {}
    for name, cell in network.cells_and_names():
        if isinstance(cell, AdaptedLinear):
            weights[f"unet.{name}.lora.down.weight"] = cell.lora_down.asnumpy()
            weights[f"unet.{name}.lora.up.weight"] = cell.lora_up.asnumpy() * np.float32(cell.adapter_scale)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def merge_adapters(network: Any, source: str) -> int:
    """Add adapters to the weights of a UNet, in place.

    Args:
        source: a file in diffusers' format, or a folder that holds one.

    Returns:
        The number of layers that have changed.

    Raises:
        ConfigError: the file cannot be read, or is not for this UNet.
    """
    path = Path(source) / WEIGHTS_FILE if Path(source).is_dir() else Path(source)
    try:
        arrays = load_file(path)
    except Exception as error:  # OSError, or safetensors' own
        raise ConfigError(f"--lora {source}: no adapters can be read from {path} ({first_line(error)})") from error
    others = [name for name in arrays if not name.startswith("unet.")]
    if others:
        raise ConfigError(f"--lora {source}: holds {others[0]}; adapters for the UNet alone can be used")
    cells = dict(network.cells_and_names())
    merged = 0
    for name, down in arrays.items():
        found = re.fullmatch(r"unet\.(.+?)(?:\.processor)?\.(lora\.down|lora_A)\.weight", name)
        if not found:
            continue
        layer = found.group(1)
        up = arrays.get(name.replace("lora.down", "lora.up").replace("lora_A", "lora_B"))
        cell = cells.get(layer)
        change = None if up is None else (up.reshape(len(up), -1) @ down.reshape(len(down), -1))
        if change is None or cell is None or change.size != cell.weight.size:
            raise ConfigError(f"--lora {source}: {name} fits no layer of this UNet")
        if f"unet.{layer}.alpha" in arrays:
            change = change * (float(arrays[f"unet.{layer}.alpha"]) / len(down))
        weight = cell.weight.asnumpy()
        changed = weight + change.reshape(weight.shape).astype(weight.dtype)
        cell.weight.set_data(ms.Tensor(changed, cell.weight.dtype))
        merged += 1
    if not merged:
        raise ConfigError(f"--lora {source}: holds no adapters in diffusers' format")
    return merged

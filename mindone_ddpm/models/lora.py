"""Low-rank adapters (LoRA, Hu et al. 2021): ``W x + (alpha / rank) B A x``, where only A and B are trained.

They are saved in diffusers' LoRA format, which ``load_lora_weights`` of mindone and of diffusers reads. mindone's
adapter layers do not compile in graph mode; those here do. For sampling, adapters are merged into the weights, so that
they cost no time.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint
from safetensors import safe_open

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import load_safetensors, save_safetensors
from mindone_ddpm.config.values import ADAPTERS_FILE as WEIGHTS_FILE
from mindone_ddpm.config.values import ADAPTERS_STATE_FILE as STATE_FILE
from mindone_ddpm.models.precision import freeze, half, linear
from mindone_ddpm.models.text_encoder import Dense

SCALE = "adapter_scale"  # in the header of a checkpoint's file: alpha / rank
# What stands in a file after the name of a layer, for each network; and what the files of peft have there.
LAYER_ENDINGS = {"unet": "lora", "text_encoder": "lora_linear_layer", "text_encoder_2": "lora_linear_layer"}
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # as in the published scripts
NAME_IN_FILE = re.compile(
    r"(unet|text_encoder_2|text_encoder)\.(.+?)(?:\.processor)?\.(lora\.down|lora_linear_layer\.down|lora_A)\.weight"
)
UP_FOR_DOWN = {"lora.down": "lora.up", "lora_linear_layer.down": "lora_linear_layer.up", "lora_A": "lora_B"}


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


class AdaptedDense(Dense):
    """The same for the linear layers of mindone's text encoders, which compute in float32."""

    def construct(self, x):
        low = mint.nn.functional.linear(x, self.lora_down)
        update = mint.nn.functional.linear(low, self.lora_up)
        if self.adapter_scale != 1.0:
            update = self.adapter_scale * update
        return mint.nn.functional.linear(x, self.weight, self.bias) + update


def add_adapters(network: Any, rank: int, alpha: float | None, targets: Sequence[str], name_of: str = "UNet") -> None:
    """Freeze a network and add an adapter to each linear layer whose name ends in one of ``targets``, in place.

    A is drawn from N(0, 1 / rank^2), B is zero, so the output of the network does not change.

    Args:
        alpha: None: equal to the rank, so that the scale is 1.
        name_of: what the network is called in errors; each has its own random numbers.

    Raises:
        ConfigError: no layer has such a name.
    """
    freeze(network)
    seed, prefix = ms.get_seed() or 0, "" if name_of == "UNet" else f"{name_of.replace(' ', '_')}."
    generator = np.random.default_rng([seed, *name_of.encode()] if prefix else seed)
    found = set()
    for name, cell in network.cells_and_names():
        target = next((target for target in targets if name == target or name.endswith(f".{target}")), None)
        if target is None or type(cell) not in (mint.nn.Linear, Dense):
            continue
        found.add(target)
        num_outputs, num_inputs = cell.weight.shape
        down, up = generator.standard_normal((rank, num_inputs)) / rank, np.zeros((num_outputs, rank))
        cell.lora_down = ms.Parameter(ms.Tensor(down, ms.float32), name=f"{prefix}{name}.lora_down")
        cell.lora_up = ms.Parameter(ms.Tensor(up, ms.float32), name=f"{prefix}{name}.lora_up")
        cell.adapter_scale = (rank if alpha is None else alpha) / rank
        if type(cell) is Dense:
            cell.__class__ = AdaptedDense
            continue
        cell.compute_dtype = ms.float32
        cell.weight_copy = cell.bias_copy = cell.lora_down_copy = cell.lora_up_copy = None
        cell.__class__ = AdaptedLinear
    missing = [target for target in targets if target not in found]
    if missing:
        raise ConfigError(
            f"--lora_target_modules {','.join(missing)}: no linear layer of the {name_of} has such a name"
        )


ADAPTED = (AdaptedLinear, AdaptedDense)


def named_adapters(network: Any) -> list[tuple[str, ms.Parameter]]:
    """The parameters of a network's adapters, by their names in a checkpoint: the layer's, and lora_down or lora_up."""
    return [
        (f"{name}.{kind}", getattr(cell, kind))
        for name, cell in network.cells_and_names()
        if isinstance(cell, ADAPTED)
        for kind in ("lora_down", "lora_up")
    ]


def save_state(network: Any, folder: Path) -> None:
    """Write the adapters of a network into a new folder, for a checkpoint."""
    folder.mkdir(parents=True)
    arrays = {name: parameter.asnumpy() for name, parameter in named_adapters(network)}
    scale = next(cell.adapter_scale for _, cell in network.cells_and_names() if isinstance(cell, ADAPTED))
    save_safetensors(arrays, folder / STATE_FILE, metadata={SCALE: repr(float(scale))})


def save_adapters(networks: Mapping[str, Any], folder: Path) -> None:
    """Write the adapters of networks into a folder, in diffusers' format; B is multiplied by alpha / rank.

    Args:
        networks: by their names in a pipeline: ``unet``, ``text_encoder``, ``text_encoder_2``.
    """
    weights = {}
    for network_name, network in networks.items():
        for name, cell in network.cells_and_names():
            if isinstance(cell, ADAPTED):
                layer = f"{network_name}.{name}.{LAYER_ENDINGS[network_name]}"
                weights[f"{layer}.down.weight"] = cell.lora_down.asnumpy()
                weights[f"{layer}.up.weight"] = cell.lora_up.asnumpy() * np.float32(cell.adapter_scale)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def split_weight(source: str) -> tuple[str, float]:
    """``FILE:0.8`` as a file or folder and its weight; without a number the weight is 1.

    Raises:
        ConfigError: the weight is not finite.
    """
    path, separator, number = source.rpartition(":")
    if not separator or not path or os.path.exists(source):
        return source, 1.0
    try:
        weight = float(number)
    except ValueError:
        return source, 1.0
    if not math.isfinite(weight):
        raise ConfigError(f"--lora {source}: the weight must be a finite number")
    return path, weight


def merge_adapters(pipeline: Any, sources: Sequence[str]) -> int:
    """Add adapters to the weights of a pipeline's UNet and text encoders, in place.

    Args:
        sources: files in diffusers' format, folders that hold one, or checkpoints of a run that trains adapters; each
            with its weight behind a colon if that is not 1.

    Returns:
        The number of layers that have changed, each as often as it has.

    Raises:
        ConfigError: a file cannot be read, or is not for this pipeline; nothing was changed then.
    """
    changes = [change for source in sources for change in _changes(pipeline, source)]
    for cell, change in changes:
        weight = cell.weight.asnumpy()
        changed = weight + change.reshape(weight.shape).astype(weight.dtype)
        cell.weight.set_data(ms.Tensor(changed, cell.weight.dtype))
    return len(changes)


def _changes(pipeline: Any, source: str) -> list[tuple[Any, np.ndarray]]:
    """The layers that a file of adapters changes, and what is added to the weights of each."""
    file, weight = split_weight(source)
    flag, states = f"--lora {source}", states_in(Path(file))
    path = Path(file) / WEIGHTS_FILE if os.path.isdir(file) and not states else Path(file)
    try:
        arrays = _read_states(states) if states else load_safetensors(path)
        scale_of = {network: 1.0 if states else _scale_in_metadata(path, network) for network in LAYER_ENDINGS}
    except Exception as error:  # OSError, safetensors' own, or metadata that are no JSON
        raise ConfigError(f"{flag}: no adapters can be read from {path} ({first_line(error)})") from error
    others = [name for name in arrays if not name.startswith(tuple(f"{network}." for network in LAYER_ENDINGS))]
    if others:
        raise ConfigError(f"{flag}: holds {others[0]}; adapters for the UNet and the text encoders can be used")
    magnitudes = [name for name in arrays if "magnitude" in name]
    if magnitudes:
        raise ConfigError(f"{flag}: holds {magnitudes[0]}; adapters of DoRA cannot be used, only those of LoRA")
    changes = []
    networks = {name: getattr(pipeline, name, None) for name in LAYER_ENDINGS}
    cells = {name: {} if one is None else dict(one.cells_and_names()) for name, one in networks.items()}
    for name, down in arrays.items():
        found = NAME_IN_FILE.fullmatch(name)
        if not found:
            continue
        network, layer, kind = found.groups()
        up = arrays.get(name.replace(kind, UP_FOR_DOWN[kind]))
        cell = cells[network].get(layer)
        if up is None or cell is None or not _fit(up, down, cell):
            raise ConfigError(f"{flag}: {name} fits no layer of this pipeline; the adapters are for another model")
        change = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
        alpha = arrays.get(f"{network}.{layer}.alpha")
        if alpha is not None and alpha.size != 1:
            raise ConfigError(f"{flag}: {network}.{layer}.alpha is no single number")
        change = change * (scale_of[network] if alpha is None else alpha.item() / len(down))
        changes.append((cell, np.asarray(change, np.float32) * np.float32(weight)))
    if not changes:
        raise ConfigError(f"{flag}: holds no adapters in diffusers' format")
    return changes


def states_in(checkpoint: Path) -> dict[str, Path]:
    """The files of a checkpoint that hold adapters, by network: the averaged ones where it has them."""
    found = {}
    for network in LAYER_ENDINGS:
        for folder in (network, f"{network}_ema"):
            if (checkpoint / folder / STATE_FILE).is_file():
                found[network] = checkpoint / folder / STATE_FILE
    return found


def _read_states(states: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Adapters of a checkpoint, as diffusers' format has them.

    Raises:
        ValueError, OSError or safetensors' own error: they cannot be read.
    """
    found = {}
    for network, path in states.items():
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(SCALE)
        if text is None:
            raise ValueError("the checkpoint of an earlier version, which does not say how they are scaled")
        scale = np.float32(text)
        for name, array in load_safetensors(path).items():
            layer, _, kind = name.rpartition(".lora_")
            factor = scale if kind == "up" else np.float32(1)
            found[f"{network}.{layer}.{LAYER_ENDINGS[network]}.{kind}.weight"] = array * factor
    return found


def _fit(up: np.ndarray, down: np.ndarray, cell: Any) -> bool:
    """Whether an adapter's two matrices (or 1x1 convolutions) make a change of a layer's weights."""
    if min(up.ndim, down.ndim) < 2 or not hasattr(cell, "weight"):
        return False
    rank, outputs = down.shape[0], cell.weight.shape[0]
    fits = up.shape[0] == outputs and up.size == outputs * rank and rank > 0
    return fits and outputs * (down.size // rank) == cell.weight.size


def _scale_in_metadata(path: Path, network: str) -> float:
    """alpha / rank, where a file of today's diffusers says it (as peft's settings in JSON); else 1."""
    with safe_open(path, "np") as file:
        settings = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    rank, alpha = settings.get(f"{network}.r"), settings.get(f"{network}.lora_alpha")
    if any(settings.get(f"{network}.{name}") for name in ("alpha_pattern", "rank_pattern", "use_dora")):
        raise ValueError("its layers have scales or ranks of their own, or it is DoRA")
    if not rank or alpha is None:
        return 1.0
    return float(alpha) / (float(rank) ** 0.5 if settings.get(f"{network}.use_rslora") else float(rank))

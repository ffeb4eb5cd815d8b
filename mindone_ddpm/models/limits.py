"""What the settings of a stranger's networks and schedulers may be, before anything is made of them.

Libraries take most values as they come: a text where a number belongs ends deep inside of them, and a number of
channels with nine digits takes all memory. Free of MindSpore.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST = 10_000_000  # of any number that stands for a count; ids of tokens are the largest
MOST_ITEMS = 10_000  # of a list: the noise levels of a scheduler
MOST_CHARACTERS = 1000
MOST_TRAINING_STEPS = 100_000  # of a scheduler, whose tables are as long
MOST_LAYERS, MOST_BLOCKS = 200, 20
MOST_SIDE = 8192  # of an image, as --image_size
KERNEL = 9  # numbers of a 3x3 convolution for each pair of channels
# Settings that some axis of some weight has, at least.
SIZES = (
    *("in_channels", "out_channels", "latent_channels", "cross_attention_dim", "num_class_embeds", "hidden_size"),
    *("intermediate_size", "vocab_size", "projection_dim", "max_position_embeddings", "addition_time_embed_dim"),
    *("projection_class_embeddings_input_dim", "time_embedding_dim", "encoder_hid_dim", "class_embed_dim"),
)


def odd_setting(settings: Mapping[str, Any], kind: type) -> str | None:
    """The first setting that cannot be one of a class, in words; None if there is none.

    Args:
        kind: its constructor's defaults say of which type each setting is. What it does not know is not looked at.
    """
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in settings and not _is_like(settings[name], parameter.default):
            return f"{name} is {settings[name]!s:.80}"
    steps = settings.get("num_train_timesteps")
    if type(steps) is int and not 1 <= steps <= MOST_TRAINING_STEPS:
        return f"num_train_timesteps is {steps}"
    side = settings.get("sample_size")
    sides = list(side) if isinstance(side, list | tuple) else [side, side]
    if side is not None and not (len(sides) == 2 and all(type(one) is int and 1 <= one <= MOST_SIDE for one in sides)):
        return f"sample_size is {side}"
    layers = [settings.get(name) for name in ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block")]
    if any(not 1 <= one <= MOST_LAYERS for one in _numbers(layers)):
        return "it has more layers than can be, or none"
    channels = settings.get("block_out_channels") or ()
    return None if len(channels) <= MOST_BLOCKS else f"it has {len(channels)} blocks"


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value can stand where a default of its type does; lists may stand for one value for each block."""
    if value is None:
        return True
    if isinstance(value, list | tuple):
        if default is None and any(isinstance(one, list | tuple) for one in value):
            return False
        inner = default[0] if isinstance(default, list | tuple) and default else default
        return len(value) <= MOST_ITEMS and not isinstance(default, str) and all(_is_like(one, inner) for one in value)
    if isinstance(default, list | tuple):
        return bool(default) and isinstance(default[0], int) and _is_like(value, default[0])  # the same for each block
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return default is None or default is inspect.Parameter.empty
    if isinstance(default, str):
        return isinstance(value, str) and len(value) <= MOST_CHARACTERS
    if isinstance(value, int | float):
        is_whole = not isinstance(default, int) or float(value).is_integer()
        return math.isfinite(value) and abs(value) <= MOST and is_whole
    return isinstance(value, str) and default is None and len(value) <= MOST_CHARACTERS


def least_weights(settings: Mapping[str, Any]) -> int:
    """A lower bound on the numbers that a network with these settings holds.

    Of a UNet or an autoencoder: the 3x3 convolutions between as many channels as a block has, of which each layer has
    two on the way down, and two on the way up. Of a text encoder: the matrices of its layers and its embeddings.
    """
    channels, layers = settings.get("block_out_channels") or (), settings.get("layers_per_block", 1)
    each = layers if isinstance(layers, list | tuple) else [layers] * len(channels)
    convolutions = sum(4 * KERNEL * count * number**2 for count, number in zip(each, channels, strict=False))
    hidden, inner = settings.get("hidden_size") or 0, settings.get("intermediate_size") or 0
    encoder = (settings.get("num_hidden_layers") or 1) * (4 * hidden**2 + 2 * hidden * inner)
    tables = hidden * ((settings.get("vocab_size") or 0) + (settings.get("max_position_embeddings") or 0))
    largest = max(_numbers([settings.get(name) for name in SIZES]), default=0)
    return int(max(convolutions, encoder + tables, largest))


def _numbers(values: Sequence[Any]) -> list[float]:
    """The numbers in lists of lists."""
    found: list[float] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += _numbers(value)
        elif isinstance(value, int | float):
            found.append(value)
    return found


def stored_weights(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold. Raises OSError, or safetensors' own error."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total

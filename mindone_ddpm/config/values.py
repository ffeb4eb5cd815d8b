"""What some values of settings mean. Free of NumPy and MindSpore."""

from __future__ import annotations

import math


def looks_like_hub_name(name: str) -> bool:
    """Whether a name that is no folder here can be user/name on the Hub."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def near_multiples(size: int, divisor: int) -> str:
    """The multiples of ``divisor`` below and above a size, for a message."""
    below = size // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)


def parse_step_rules(text: str) -> tuple[list[tuple[float, int]], float]:
    """``factor:until_step`` pairs and the factor after the last of them. Raises ValueError."""
    *pairs, last = text.split(",")
    rules = [(float(factor), int(until)) for factor, until in (pair.split(":") for pair in pairs)]
    untils = [until for _, until in rules]
    factors = [*(factor for factor, _ in rules), float(last)]
    if untils != sorted(set(untils)) or not all(0 <= factor < math.inf for factor in factors):
        raise ValueError(text)
    return rules, float(last)


# Names of files that are read where MindSpore is not imported.
ADAPTERS_FILE = "pytorch_lora_weights.safetensors"  # LoRA adapters in diffusers' format
ADAPTERS_STATE_FILE = "adapters.safetensors"  # the same in a network's folder of a checkpoint
EMBEDDING_FILE = "learned_embeds.safetensors"
GRID_FILE = "grid.png"  # all images of a call of sample in one
TRAJECTORY_STRIP, TRAJECTORY_GIF = "trajectory.png", "trajectory.gif"

# What evaluate writes into a run's folder, and the report shows.
EVALUATION, COPIES_FILE, COPIES_GRID = "evaluation", "copies.json", "copies.png"

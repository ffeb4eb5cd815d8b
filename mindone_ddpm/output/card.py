"""The model card: what a pipeline is, how it was trained, what it makes, and how to use it."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

import mindone_ddpm
from mindone_ddpm.common.files import atomic_path, write_text
from mindone_ddpm.config.fields import as_dict, private_settings
from mindone_ddpm.config.groups import EngineConfig, looks_like_hub_name
from mindone_ddpm.output.checkpoint import grids_in
from mindone_ddpm.output.metrics_log import latest_mean, read_curves
from mindone_ddpm.output.product import Product

CARD, LOSS_CURVE = "README.md", "loss.png"


# In a card that this package wrote, and may write anew.
MARK = "<!-- written by mindone_ddpm; without this line the file is left alone -->"


# Where a card's instructions name the repository that it lies in.
REPOSITORY = re.compile(r'^(repository = ").*(")$|^(mindone-ddpm sample --model ).*?((?: --\w+ \S.*)?)$', re.MULTILINE)


def write_card(
    config: EngineConfig, product: Product, plan: dict[str, str], folder: Path, step: int, total_steps: int
) -> None:
    """Write ``README.md`` and the loss curve next to a pipeline; a README.md that the user wrote stays as it is.

    Args:
        plan: what the job says of itself, by heading.

    Raises:
        OSError: a file cannot be written.
    """
    path = folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    losses = read_curves(folder / config.logging_dir).get("train/loss", {})
    if len(losses) > 1:
        with atomic_path(folder / LOSS_CURVE) as tmp_path:
            draw_curve(losses).save(tmp_path, format="png")
    grids = grids_in(folder)
    grid = grids[-1].relative_to(folder).as_posix() if grids else None
    write_text(path, card_text(config, product, plan, step, total_steps, losses, grid))


def metadata(config: EngineConfig, product: Product) -> dict[str, Any]:
    """The head of a card, which the Hub reads."""
    found: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": product.pipeline_tag,
        "tags": list(product.tags),
    }
    if config.hub_license is not None:
        found["license"] = config.hub_license
    if is_of_the_hub(config.dataset_name):
        found["datasets"] = [config.dataset_name]
    if is_of_the_hub(product.base_model):
        found["base_model"] = product.base_model
    return found


def is_of_the_hub(name: str | None) -> bool:
    return name is not None and looks_like_hub_name(name) and not Path(name).exists()


def command_line(config: EngineConfig, product: Product) -> str:
    """The command that gives this configuration, without places, names of accounts, and defaults."""
    defaults, private = as_dict(type(config)()), private_settings(type(config))
    words = ["mindone-ddpm", product.command]
    for name, value in as_dict(config).items():
        if value == defaults[name] or value is None or name in private:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *(without_place(item) for item in (value if isinstance(value, list) else [value]))]
    return " ".join(shlex.quote(word) for word in words)


def without_place(value: Any) -> str:
    """A setting's value in words; of a path on this machine, only its last part."""
    text = str(value)
    is_path = text.startswith(("/", "~", "./", "../")) or ("/" in text and Path(text).exists())
    return Path(text).name if is_path else text


def without_places(text: str, config: EngineConfig) -> str:
    for value in as_dict(config).values():
        if isinstance(value, str) and value in text:
            text = text.replace(value, without_place(value))
    return text


def card_text(
    config: EngineConfig,
    product: Product,
    plan: dict[str, str],
    step: int,
    total_steps: int,
    losses: dict[int, float],
    grid: str | None,
) -> str:
    rows = {key: without_places(text, config) for key, text in plan.items()}
    rows |= {"steps": f"{step:,} of {total_steps:,}", "precision": str(config.mixed_precision)}
    if losses:
        rows["loss"] = latest_mean(losses)
    head = yaml.safe_dump(metadata(config, product), sort_keys=False).strip()
    name = (config.hub_model_id or Path(config.output_dir).resolve().name).split("/")[-1]
    repository = config.hub_model_id or name
    command = command_line(config, product)
    parts = [f"---\n{head}\n---\n{MARK}\n\n# {name}\n"]
    if grid is not None:
        parts.append(f"![samples]({grid})\n")
    parts.append("## How it was trained\n")
    parts.append(f"With mindone_ddpm {mindone_ddpm.__version__} on MindSpore:\n\n```bash\n{command}\n```\n")
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    parts.append(f"| | |\n|---|---|\n{table}\n")
    if len(losses) > 1:
        parts.append(f"![loss]({LOSS_CURVE})\n")
    parts.append("## How to use it\n\n" + usage(product, repository))
    return "\n".join(parts)


def usage(product: Product, repository: str) -> str:
    """How to load a product that is in ``repository``."""
    lines, kind, call = [], product.pipeline_class, product.call
    if kind is not None:
        load = f"pipeline = {kind}.from_pretrained(repository)"
        if product.adapters_of is not None:
            base = without_place(product.adapters_of)
            load = f'pipeline = {kind}.from_pretrained("{base}")\npipeline.load_lora_weights(repository)'
        load = f'repository = "{repository}"\n{load}'
        mindone = f"from mindone.diffusers import {kind}\n\n{load}\nimages = {call}[0]"
        torch = f"from diffusers import {kind}\n\n{load}\nimages = {call}.images"
        lines.append(f"With MindSpore and mindone:\n\n```python\n{mindone}\n```\n")
        lines.append(f"With PyTorch:\n\n```python\n{torch}\n```\n")
    if product.adapters_of is None:
        options = "".join(
            f" {word}" if word.startswith("--") else f" {quoted(word)}" for word in product.sample_options
        )
        command = f"mindone-ddpm sample --model {shlex.quote(repository)}{options}"
        lines.append(f"From the command line:\n\n```bash\n{command}\n```\n")
    return "\n".join(lines)


def quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def for_repository(text: str, repository: str) -> str:
    """A card as it should stand in a repository on the Hub; one that the user wrote stays as it is."""
    if MARK not in text:
        return text
    return REPOSITORY.sub(lambda m: f"{m[1] or m[3]}{repository}{m[2] or m[4]}", text)


def draw_curve(points: dict[int, float], size: tuple[int, int] = (720, 320)) -> Image.Image:
    """Values over steps: each step thin, a running mean over a fiftieth of them thick."""
    width, height = size
    left, right, top, bottom = 60, width - 15, 15, height - 30
    points = {step: value for step, value in points.items() if math.isfinite(value)} or {0: 0.0}
    steps, values = list(points), list(points.values())
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(len(ordered) - 1, int(len(ordered) * 0.98))]
    high = high if high > low else low + 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        across = (step - steps[0]) / max(steps[-1] - steps[0], 1)
        up = (min(value, high) - low) / (high - low)
        return left + across * (right - left), bottom - up * (bottom - top)

    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for share in (0.0, 0.5, 1.0):
        value, step = low + share * (high - low), steps[0] + share * (steps[-1] - steps[0])
        y, x = place(steps[0], value)[1], place(step, low)[0]
        draw.line([(left, y), (right, y)], fill="#dddddd")
        draw.text((5, y - 6), f"{value:.3g}", fill="#555555")
        draw.text((x - 20 * share, bottom + 8), f"{step:,.0f}", fill="#555555")
    mean, means, weight = values[0], [], min(1.0, 50 / len(values))
    for value in values:
        mean += weight * (value - mean)
        means.append(mean)
    draw.line([place(s, v) for s, v in zip(steps, values, strict=True)], fill="#b8cbe0", width=1)
    draw.line([place(s, v) for s, v in zip(steps, means, strict=True)], fill="#1f5fa8", width=2)
    return picture

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
from mindone_ddpm.common.files import write_text
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.config.groups import EngineConfig, looks_like_hub_name
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.output.checkpoint import grids_in
from mindone_ddpm.output.history import latest_mean, read_curves

CARD, LOSS_CURVE = "README.md", "loss.png"


# In a card that this package wrote, and may write anew.
MARK = "<!-- written by mindone_ddpm; without this line the file is left alone -->"


# Where a card's instructions name the repository that it lies in.
REPOSITORY = re.compile(r'^(repository = ").*(")$|^(mindone-ddpm sample --model ).*?((?: --\w+ \S.*)?)$', re.MULTILINE)


# Where a run lies and whom it belongs to is nobody's business.
LEFT_OUT = (
    *("output_dir", "cache_dir", "hub_model_id", "hub_private_repo", "push_to_hub", "overwrite_output_dir"),
    *("resume_from_checkpoint", "logging_dir", "distributed", "local_rank"),
)


def write_card(config: EngineConfig, job: Any, folder: Path, step: int, total_steps: int) -> None:
    """Write ``README.md`` and the loss curve beside a pipeline; a README.md of the user's own is left alone.

    Raises:
        OSError: a file cannot be written.
    """
    path = folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    losses = read_curves(folder / config.logging_dir).get("train/loss", {})
    if len(losses) > 1:
        beside = folder / f".{LOSS_CURVE}.tmp"
        draw_curve(losses).save(beside, format="png")
        beside.replace(folder / LOSS_CURVE)
    grids = grids_in(folder)
    grid = grids[-1].relative_to(folder).as_posix() if grids else None
    write_text(path, card_text(config, job, step, total_steps, losses, grid))


def metadata(config: EngineConfig) -> dict[str, Any]:
    """What stands at the head of a card, for the Hub to read."""
    text = isinstance(config, TextToImageConfig)
    found: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image" if text else "unconditional-image-generation",
        "tags": ["mindspore", "mindone", "stable-diffusion" if text else "ddpm", *(["lora"] * is_lora(config))],
    }
    if config.hub_license is not None:
        found["license"] = config.hub_license
    if is_of_the_hub(config.dataset_name):
        found["datasets"] = [config.dataset_name]
    base = getattr(config, "pretrained_model_name_or_path", None)
    if is_of_the_hub(base):
        found["base_model"] = base
    return found


def is_of_the_hub(name: str | None) -> bool:
    return name is not None and looks_like_hub_name(name) and not Path(name).exists()


def is_lora(config: EngineConfig) -> bool:
    return getattr(config, "rank", None) is not None


def command_line(config: EngineConfig) -> str:
    """The command that gives this configuration, without places, names of accounts, and what has its default."""
    defaults = as_dict(type(config)())
    words = ["mindone-ddpm", "train_text_to_image" if isinstance(config, TextToImageConfig) else "train"]
    for name, value in as_dict(config).items():
        if value == defaults[name] or value is None or name in LEFT_OUT:
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
    config: EngineConfig, job: Any, step: int, total_steps: int, losses: dict[int, float], grid: str | None
) -> str:
    plan = {key: without_places(text, config) for key, text in job.describe().items()}
    about = {**plan, "steps": f"{step:,} of {total_steps:,}", "precision": str(config.mixed_precision)}
    if losses:
        about["loss"] = latest_mean(losses)
    head = yaml.safe_dump(metadata(config), sort_keys=False).strip()
    name = (config.hub_model_id or Path(config.output_dir).resolve().name).split("/")[-1]
    repository = config.hub_model_id or name
    parts = [f"---\n{head}\n---\n{MARK}\n\n# {name}\n"]
    if grid is not None:
        parts.append(f"![samples]({grid})\n")
    parts.append("## How it was trained\n")
    parts.append(
        f"With mindone_ddpm {mindone_ddpm.__version__} on MindSpore:\n\n```bash\n{command_line(config)}\n```\n"
    )
    rows = "\n".join(f"| {key} | {value} |" for key, value in about.items())
    parts.append(f"| | |\n|---|---|\n{rows}\n")
    if len(losses) > 1:
        parts.append(f"![loss]({LOSS_CURVE})\n")
    parts.append("## How to use it\n\n" + usage(config, repository))
    return "\n".join(parts)


def usage(config: EngineConfig, repository: str) -> str:
    """How to load a pipeline that lies in ``repository``, or adapters."""
    if is_lora(config):
        base = without_place(getattr(config, "pretrained_model_name_or_path", ""))
        kind, call = "StableDiffusionPipeline", 'pipeline("a prompt")'
        load = f'pipeline = StableDiffusionPipeline.from_pretrained("{base}")\npipeline.load_lora_weights(repository)'
    elif isinstance(config, TextToImageConfig):
        kind, call = "StableDiffusionPipeline", 'pipeline("a prompt")'
        load = "pipeline = StableDiffusionPipeline.from_pretrained(repository)"
    else:
        kind, call = "DDPMPipeline", "pipeline(batch_size=4)"
        load = "pipeline = DDPMPipeline.from_pretrained(repository)"
    load = f'repository = "{repository}"\n{load}'
    mindone = f"from mindone.diffusers import {kind}\n\n{load}\nimages = {call}[0]"
    torch = f"from diffusers import {kind}\n\n{load}\nimages = {call}.images"
    by_class = getattr(config, "class_conditional", False)
    lines = []
    if not by_class:  # the libraries' own pipeline cannot be told a class
        lines.append(f"With MindSpore and mindone:\n\n```python\n{mindone}\n```\n")
        lines.append(f"With PyTorch:\n\n```python\n{torch}\n```\n")
    if not is_lora(config):
        more = ' --prompt "a prompt"' if isinstance(config, TextToImageConfig) else " --class_label 0" * by_class
        command = f"mindone-ddpm sample --model {shlex.quote(repository)}{more}"
        lines.append(f"From the command line:\n\n```bash\n{command}\n```\n")
    return "\n".join(lines)


def for_repository(text: str, repository: str) -> str:
    """A card as it should stand in a repository on the Hub; one of the user's own stays as it is."""
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

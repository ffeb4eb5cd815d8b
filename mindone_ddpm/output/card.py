"""The model card: what a model is, how it was trained, what it makes, and how to use it."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

import mindone_ddpm
from mindone_ddpm.common.files import atomic_path, write_text
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.common.hubs.base import choose_hub
from mindone_ddpm.config.fields import as_dict, private_settings
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.config.values import looks_like_hub_name
from mindone_ddpm.output import charts
from mindone_ddpm.output.metrics_log import read_curves, recent_mean
from mindone_ddpm.output.product import Product
from mindone_ddpm.output.run_folder import grids_in

CARD, LOSS_CURVE = "README.md", "loss.png"
LOSS_CURVE_SIZE = (720, 320)  # pixels

# In a card that this package wrote, and may overwrite.
MARK = "<!-- written by mindone_ddpm; without this line the file is left alone -->"

# The metadata of a card; where its Python sets the repository that it is in, and where its command line names it.
HEAD = re.compile(r"\A---\n(.*?)^---$", re.MULTILINE | re.DOTALL)
IN_PYTHON = re.compile(r"^(?:from \w+_hub import \w+\n)?repository = .*$", re.MULTILINE)
IN_COMMAND = re.compile(r"^mindone-ddpm sample (?:--hub \w+ )?--model .*?((?: --\w+ \S.*)?)$", re.MULTILINE)


def write_card(
    config: EngineConfig, product: Product, plan: dict[str, str], folder: Path, step: int, total_steps: int
) -> None:
    """Write ``README.md`` and the loss curve next to the result of a run. A README.md of the user's stays as it is.

    Args:
        plan: lines on data and model, by heading.

    Raises:
        OSError: a file cannot be written.
    """
    path = folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    losses = read_curves(folder / config.logging_dir).get("train/loss", {})
    if len(losses) > 1:
        chart = charts.curve_chart(losses, *LOSS_CURVE_SIZE, with_mean=True)
        with atomic_path(folder / LOSS_CURVE) as tmp_path:
            charts.to_image(chart).save(tmp_path, format="png")
    grids = grids_in(folder)
    grid = grids[-1].relative_to(folder).as_posix() if grids else None
    write_text(path, card_text(config, product, plan, step, total_steps, losses, grid))


def card_text(
    config: EngineConfig,
    product: Product,
    plan: dict[str, str],
    step: int,
    total_steps: int,
    losses: dict[int, float],
    grid: str | None,
) -> str:
    """The card. ``losses``: by step; ``grid``: path of the samples to show, relative to the card."""
    rows = {key: without_paths(text, config) for key, text in plan.items()}
    rows |= {"steps": f"{step:,} of {total_steps:,}", "precision": str(config.mixed_precision)}
    if losses:
        rows["loss"] = recent_mean(losses)
    head = yaml.safe_dump(metadata(config, product), sort_keys=False).strip()
    name = (config.hub_model_id or Path(config.output_dir).resolve().name).split("/")[-1]
    command = command_line(config, product)
    parts = [f"---\n{head}\n---\n{MARK}\n\n# {in_markdown(name)}\n"]
    if grid is not None:
        parts.append(f"![samples]({grid})\n")
    parts.append("## How it was trained\n")
    parts.append(f"With mindone_ddpm {mindone_ddpm.__version__} on MindSpore:\n\n{code('bash', command)}\n")
    table = "\n".join(f"| {in_markdown(key)} | {in_markdown(value)} |" for key, value in rows.items())
    parts.append(f"| | |\n|---|---|\n{table}\n")
    if len(losses) > 1:
        parts.append(f"![loss]({LOSS_CURVE})\n")
    parts.append("## How to use it\n\n" + usage(product, config.hub_model_id or name))
    return "\n".join(parts)


def metadata(config: EngineConfig, product: Product) -> dict[str, Any]:
    """The head of a card, which the Hugging Face Hub reads; for_hub makes those of other hubs of it."""
    found: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": product.pipeline_tag,
        "tags": list(product.tags),
    }
    if config.hub_license is not None:
        found["license"] = config.hub_license
    if is_on_hub(config.dataset_name):
        found["datasets"] = [config.dataset_name]
    if is_on_hub(product.base_model):
        found["base_model"] = product.base_model
    return found


def is_on_hub(name: str | None) -> bool:
    return name is not None and looks_like_hub_name(name) and not os.path.exists(name)


# --- the command ---------------------------------------------------------------------------------------------------


def command_line(config: EngineConfig, product: Product) -> str:
    """The command that gives this configuration, without paths, names of accounts, and defaults."""
    defaults, values = as_dict(type(config)()), as_dict(config)
    words = ["mindone-ddpm", product.command]
    private = private_settings(type(config))
    for item in dataclasses.fields(config):
        value = values.get(item.name)  # secrets are not among them
        if value is None or value == defaults[item.name] or item.name in private:
            continue
        if isinstance(value, bool):
            words.append(f"--{item.name}" if value else f"--no-{item.name}")
        else:
            listed = value if isinstance(value, list) else [value]
            words += [f"--{item.name}", *(without_path(entry) for entry in listed)]
    return shlex.join(words)


def without_path(value: Any) -> str:
    """A setting's value as text; of a path on this machine, only its last part."""
    text = str(value)
    is_path = text.startswith(("/", "~", "./", "../")) or ("/" in text and os.path.exists(text))
    return Path(text).name if is_path else text


def without_paths(text: str, config: EngineConfig) -> str:
    """A text in which settings may be named, with the last part of each path only."""
    for value in as_dict(config).values():
        if isinstance(value, str) and value in text:
            text = text.replace(value, without_path(value))
    return text


# --- names where they stand ----------------------------------------------------------------------------------------


def in_markdown(text: str) -> str:
    """A text that shows as it is, in a heading or in a cell of a table: no HTML, link, image, code or further line."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(shown, quote=False))


def in_python(text: str) -> str:
    """A string literal, on one line."""
    return json.dumps(text)


def code(language: str, text: str) -> str:
    """A block of code, fenced by more backticks than any that are in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


# --- how to use it -------------------------------------------------------------------------------------------------


def usage(product: Product, repository: str) -> str:
    """How to load a product that is in ``repository``: with mindone, with diffusers, from the command line."""
    lines = []
    if product.pipeline_class is not None:
        mindone = snippet(product, repository, "mindone.diffusers", "[0]")
        torch = snippet(product, repository, "diffusers", ".images")
        lines.append(f"With MindSpore and mindone:\n\n{code('python', mindone)}\n")
        lines.append(f"With PyTorch:\n\n{code('python', torch)}\n")
    if product.adapters_of is None:
        command = shlex.join(["mindone-ddpm", "sample", "--model", repository, *product.sample_options])
        lines.append(f"From the command line:\n\n{code('bash', command)}\n")
    return "\n".join(lines)


def snippet(product: Product, repository: str, library: str, images: str) -> str:
    """Python that makes images. ``images``: how to get them from what the library's pipelines return."""
    kind = product.pipeline_class
    lines = [f"from {library} import {kind}", "", f"repository = {in_python(repository)}"]
    if product.adapters_of is None:
        lines.append(f"pipeline = {kind}.from_pretrained(repository)")
    else:
        lines.append(f"pipeline = {kind}.from_pretrained({in_python(without_path(product.adapters_of))})")
        lines.append(f"pipeline.{product.load_method}(repository)")
    return "\n".join([*lines, f"images = {product.call}{images}"])


def for_hub(text: str, hub: str, repository: str, license: str | None = None) -> str:
    """A card as it should be in a repository of a hub; of a card that this package did not write, only the license.

    Args:
        hub: of :data:`mindone_ddpm.common.hubs.HUBS`.
        license: in place of the one that the card names, if any.
    """
    chosen, head = choose_hub(hub), head_of(text)
    if MARK in text:
        head = chosen.card_metadata(head)
        code = "\n".join(chosen.folder_code(repository))
        command = ["mindone-ddpm", "sample", *(["--hub", hub] if hub != HUGGINGFACE else []), "--model", repository]
        text = IN_PYTHON.sub(lambda _: code, text)
        text = IN_COMMAND.sub(lambda match: shlex.join(command) + match[1], text)
    elif license is None:
        return text
    if license is not None:
        head["license"] = license
    written = f"---\n{yaml.safe_dump(head, sort_keys=False)}---"
    return HEAD.sub(lambda _: written, text, count=1) if HEAD.match(text) else f"{written}\n{text}"


def head_of(text: str) -> dict[str, Any]:
    """The metadata at the beginning of a card; empty if there is none, or if it cannot be read."""
    match = HEAD.match(text)
    try:
        found = yaml.safe_load(match[1]) if match is not None else None
    except yaml.YAMLError:
        found = None
    return found if isinstance(found, dict) else {}


def license_in(card: Path) -> str | None:
    """The license that a card's metadata name."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    license = head_of(text).get("license")
    return None if license is None else str(license)

"""From a form to a configuration: which fields it has, what is wrong with its values, YAML and command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mindone_ddpm.backends.choose import max_local_ranks
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import Settings, as_dict, changed_settings, heading_of, is_list, value_types
from mindone_ddpm.config.parse import from_dict
from mindone_ddpm.jobs.base import JOBS
from mindone_ddpm.sampling.config import InpaintConfig, SampleConfig

# What most people set, at the top of a form; those that a job does not have are passed over.
FIRST = (
    *("dataset_name", "train_data_dir", "pretrained_model_name_or_path", "instance_prompt", "placeholder_token"),
    *("initializer_token", "image_size", "channels", "preset", "class_conditional", "rank", "train_batch_size"),
    *("max_train_steps", "num_epochs", "learning_rate", "lr_warmup_steps", "use_ema", "validation_prompts"),
    *("save_image_steps", "checkpointing_steps", "mixed_precision"),
    *("prompt", "negative_prompt", "class_label", "num_images", "seed", "scheduler", "num_inference_steps"),
    *("guidance_scale", "lora", "embedding"),
)
# What the studio decides itself: where files go, what is resumed, files that it writes.
DECIDED = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "image", "mask", "distributed", "local_rank"}
MOST_RANKS = 64  # on a machine without NPUs
SAMPLING: Mapping[str, type[Settings]] = {"sample": SampleConfig, "inpaint": InpaintConfig}


def config_class(command: str) -> type[Settings]:
    """Raises ConfigError: no form is for this command."""
    if command in SAMPLING:
        return SAMPLING[command]
    if command not in list(JOBS):
        raise ConfigError(f"{command[:100]!r}: must be one of {', '.join([*JOBS, *SAMPLING])}")
    return JOBS[command].config


def fields_for(command: str) -> list[dict[str, Any]]:
    """Each field of a command's form, the most usual first: name, heading, help, type, default, bounds, choices.

    Raises:
        ConfigError: no form is for this command.
    """
    cls = config_class(command)
    types = value_types(cls)
    found = []
    for item in dataclasses.fields(cls):
        if item.metadata["secret"] or item.name in DECIDED or item.metadata["help"].startswith("accepted"):
            continue
        plain, optional = types[item.name]
        found.append(
            {
                "name": item.name,
                "heading": heading_of(cls, item.name),
                "help": item.metadata["help"],
                "type": "list" if is_list(plain) else plain.__name__,
                "optional": optional,
                "default": item.default,
                "choices": list(item.metadata["choices"]),
                "several": item.metadata["several"],
                "first": item.name in FIRST,
            }
        )
    order = {name: place for place, name in enumerate(FIRST)}
    return sorted(found, key=lambda about: order.get(about["name"], len(order)))


def read_form(command: str, values: Mapping[str, Any], decided: Mapping[str, Any]) -> Settings:
    """The configuration that a form gives, checked.

    Args:
        values: text, numbers, lists; empty text stands for the default.
        decided: what the studio adds.

    Raises:
        ConfigError: with every problem.
    """
    cls = config_class(command)
    known = {item["name"]: item for item in fields_for(command)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(*(f"--{name[:100]}: unknown setting" for name in unknown))
    given: dict[str, Any] = {}
    for name, value in values.items():
        if value in ("", None, []):
            continue
        if known[name]["type"] == "list" and isinstance(value, str):
            value = [line.strip() for line in value.splitlines() if line.strip()]
        given[name] = value
    config = from_dict(cls, {**given, **decided})
    config.check()
    return config


def changed(config: Settings) -> dict[str, Any]:
    return changed_settings(type(config), as_dict(config))[0]


def yaml_text(command: str, config: Settings) -> str:
    """The settings that differ from the defaults, as a file for ``--config``."""
    text = yaml.safe_dump(changed(config), sort_keys=False, allow_unicode=True)
    return f"# mindone-ddpm {command} --config THIS_FILE\n{text}"


def flags(config: Settings, without: Sequence[str] = ()) -> list[str]:
    """The settings that differ from the defaults, as words of a command line."""
    words = []
    for name, value in changed(config).items():
        if name in without or value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            is_plain = not any(str(one).startswith("-") for one in value)
            words += [f"--{name}", *map(str, value)] if is_plain else [f"--{name}={one}" for one in value]
        else:
            # In one word: a value may begin with a hyphen.
            words += [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]
    return words


def number_of_ranks(value: Any) -> int:
    """Of what a form says, as ``launch -n`` takes it; empty text stands for 1. Raises ConfigError."""
    text, most = str(value).strip() or "1", max_local_ranks() or MOST_RANKS
    if type(value) not in (int, str) or not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= most:
        raise ConfigError(f"--workers {text[:20]}: must be a whole number from 1 to {most}")
    return int(text)


def new_run_folder(name: str, root: Path, inside: Path) -> Path:
    """The folder of a new run. Raises ConfigError: the name is none, or a run is there already.

    Args:
        inside: the name as a path that was found to be in the studio's folder.
    """
    if not name.strip() or inside == root:
        raise ConfigError("--output_dir: give the run a name")
    if inside.exists() and (not inside.is_dir() or any(inside.iterdir())):
        raise ConfigError(f"--output_dir {name}: is there already; give another name")
    return inside

"""Configuration: dataclasses that become the command line, a YAML file and the run's own record.

Never imports MindSpore, so that ``--help`` answers at once. A field's ``metadata`` holds its help text, the other
names by which the published scripts know it, and what it may be; :func:`validate` reports every problem together.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    several: bool = False,
    secret: bool = False,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field with what the command line and the validation need to know.

    ``low`` and ``high`` are the smallest and the largest value allowed, ``above`` a value that must be exceeded.
    ``several``: more than one of the choices may be given, with commas between them. ``secret``: never written down.
    """
    metadata = {"help": help, "aliases": tuple(aliases), "choices": tuple(choices), "several": several}
    return field(default=default, metadata={**metadata, "secret": secret, "low": low, "high": high, "above": above})


def value_types(config_class: type) -> dict[str, tuple[type, bool]]:
    """For each field of a configuration: its plain type, and whether it may be None."""
    result = {}
    for name, annotation in typing.get_type_hints(config_class).items():
        if isinstance(annotation, types.UnionType):
            plain = next(option for option in typing.get_args(annotation) if option is not type(None))
            result[name] = (plain, True)
        else:
            result[name] = (annotation, False)
    return result


def is_list(plain: type) -> bool:
    return typing.get_origin(plain) is list


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration's settings, without the secret ones."""
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if not item.metadata["secret"]}


def check_fields(config: Any) -> list[str]:
    """Problems that one field shows by itself: choices, bounds, not-a-number."""
    problems = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value is None:
            continue
        choices, low, high, above = (item.metadata[key] for key in ("choices", "low", "high", "above"))
        if value in ("", []) and item.default != "":
            problems.append(f"--{item.name}: must not be empty")
        elif choices and not set(value.split(",") if item.metadata["several"] else [value]) <= set(choices):
            problems.append(f"--{item.name} {value}: must be one of {', '.join(choices)}")
        if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
            problems.append(f"--{item.name} {value}: must be a finite number")
        elif low is not None and value < low:
            problems.append(f"--{item.name} {value}: must be at least {low}")
        elif high is not None and value > high:
            problems.append(f"--{item.name} {value}: must be at most {high}")
        elif above is not None and value <= above:
            problems.append(f"--{item.name} {value}: must be above {above}")
    return problems


LOCKED = frozenset(
    [
        "image_size",
        "resize_mode",
        "center_crop",
        "random_flip",
        "image_interpolation_mode",
        "random_vertical_flip",
        "streaming",
        "streaming_buffer_size",
        "dataloader_drop_last",
        "loss_type",
        "huber_c",
        "snr_gamma",
        "noise_offset",
        "input_perturbation",
        "gradient_accumulation_steps",
        "optimizer",
        "mixed_precision",
        "use_ema",
        "seed",
        "channels",
        "preserve_input_precision",
        "ddpm_num_steps",
        "ddpm_beta_schedule",
        "rescale_betas_zero_snr",
        "prediction_type",
        "loss_weighting",
        "class_conditional",
        "label_dropout",
        "validation_split",
        "caption_dropout",
        "cache_latents",
        "rank",
        "lora_alpha",
        "lora_target_modules",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "adam_weight_decay",
        "max_grad_norm",
        "ema_inv_gamma",
        "ema_power",
        "ema_max_decay",
        "ema_decay",
    ]
)
REPORT = frozenset(
    [
        "train_batch_size",
        "num_epochs",
        "max_train_steps",
        "learning_rate",
        "scale_lr",
        "lr_scheduler",
        "lr_warmup_steps",
        "lr_num_cycles",
        "lr_power",
        "lr_step_rules",
        "loss_scaling",
        "loss_scale",
    ]
)


def settings_by_resume(config_class, kind):
    kinds = {"locked": LOCKED, "report": REPORT}[kind]
    return tuple(item.name for item in dataclasses.fields(config_class) if item.name in kinds)


def settings_outside_graph(config_class):
    return {"output_dir", "overwrite_output_dir", "resume_from_checkpoint"}

"""Configuration: dataclasses that become the command line, a YAML file and the run's own record.

Never imports MindSpore, so that ``--help`` answers at once. A field's ``metadata`` holds its help text, the other
names by which the published scripts know it, and what it may be; :func:`validate` reports every problem together.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BUILT_IN_DATASETS = ("digits",)
DIGITS_IMAGE_SIZE = 8


class Problem(Exception):
    """What a user can mend: the message is for them, a line for each thing that is wrong."""

    exit_status = 1
    prefix = "error: "


class ConfigError(Problem):
    """One or more settings are wrong. ``problems`` holds one line for each."""

    exit_status = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def first_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# --- UNet presets ------------------------------------------------------------------------------------------------

UNET_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {  # under a million parameters; images from 8x8
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
    },
    "small": {  # 6.5 M parameters with three channels; images from 16x16
        "block_out_channels": (64, 128, 128),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "tutorial": {  # 113.7 M parameters with three channels; made for 128x128
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": (
            "DownBlock2D",
            "DownBlock2D",
            "DownBlock2D",
            "DownBlock2D",
            "AttnDownBlock2D",
            "DownBlock2D",
        ),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    },
}


def preset_for(image_size: int) -> str:
    """The preset that fits an image size in pixels: tiny below 16, small to 64, tutorial above."""
    if image_size < 16 or image_size % 4:
        return "tiny"
    return "small" if image_size <= 64 else "tutorial"


def size_divisor(block_out_channels: Sequence[int]) -> int:
    """Every block but the last halves the image: sides must be divisible by 2 to that number."""
    return 2 ** (len(block_out_channels) - 1)


# --- fields ------------------------------------------------------------------------------------------------------


def setting(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field with what the command line and the validation need to know.

    ``low`` and ``high`` are the smallest and the largest value allowed, ``above`` a value that must be exceeded.
    """
    metadata = {"help": help, "aliases": tuple(aliases), "choices": tuple(choices)}
    return field(default=default, metadata={**metadata, "low": low, "high": high, "above": above})


LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
SAMPLERS = ("ddpm", "ddim", "dpmsolver++")
TRACKERS = ("none", "tensorboard", "csv")


@dataclass
class TrainingConfig:
    """Everything that decides a training run. Names and defaults follow the published tutorial and scripts."""

    # data
    dataset_name: str | None = setting(
        None, "'digits' (built in), a data set's name on the Hugging Face Hub, or a folder written by save_to_disk"
    )
    dataset_config_name: str | None = setting(None, "configuration of the data set, where it has several")
    dataset_split: str = setting("train", "split to train on")
    train_data_dir: str | None = setting(
        None, "folder of images (nested or flat, with or without metadata.jsonl), or of parquet files"
    )
    image_column: str | None = setting(None, "column that holds the images; found by its type when not given")
    cache_dir: str | None = setting(None, "where Hugging Face data sets are cached")
    image_size: int = setting(128, "side of the square images in pixels", aliases=["resolution"], low=2)
    channels: int = setting(3, "1 grey, 3 RGB, 4 RGBA", low=1)
    resize_mode: str = setting(
        "squash", "squash: to a square, as in the tutorial; crop: shorter side, then crop", choices=["squash", "crop"]
    )
    center_crop: bool = setting(False, "with resize_mode crop (which this implies): crop in the middle, not at random")
    random_flip: bool | None = setting(None, "flip half the images left to right; on, but for the built-in digits")
    dataloader_num_workers: int = setting(
        0, "processes that decode images, at most one a core; 0: a thread, enough where the images fit in memory", low=0
    )
    cache_images_mib: int = setting(
        1024, "keep the resized images in memory if they take at most this many MiB; 0: never", low=0
    )

    # model
    preset: str | None = setting(
        None, "size of the UNet; by default the one that fits the image size", choices=list(UNET_PRESETS)
    )
    model_config_name_or_path: str | None = setting(
        None, "config.json of a UNet2DModel, or a folder or a Hub name that has one, instead of a preset"
    )
    ddpm_num_steps: int = setting(1000, "noise levels", low=2)
    ddpm_beta_schedule: str = setting("linear", "how the noise grows", choices=BETA_SCHEDULES)
    prediction_type: str = setting("epsilon", "what the UNet predicts", choices=PREDICTION_TYPES)

    # training
    output_dir: str = setting("ddpm-butterflies-128", "folder for the pipeline, samples and logs")
    overwrite_output_dir: bool = setting(False, "allow an output_dir that already holds a run")
    train_batch_size: int = setting(16, "images per device and micro-batch", low=1)
    num_epochs: int = setting(50, "passes over the data", aliases=["num_train_epochs"], low=1)
    max_train_steps: int | None = setting(None, "optimiser steps; decides over num_epochs when given", low=1)
    gradient_accumulation_steps: int = setting(1, "micro-batches per optimiser step", low=1)
    learning_rate: float = setting(1e-4, "peak learning rate", above=0)
    lr_scheduler: str = setting("cosine", "schedule, by optimiser step", choices=LR_SCHEDULERS)
    lr_warmup_steps: int = setting(500, "steps in which the learning rate rises from 0", low=0)
    optimizer: str = setting(
        "adamw",
        "adamw: with bias correction; adamw_no_correction: the tutorial's AdamWeightDecay",
        choices=["adamw", "adamw_no_correction"],
    )
    adam_beta1: float = setting(0.95, "decay of the first moment", low=0)
    adam_beta2: float = setting(0.999, "decay of the second moment", low=0)
    adam_weight_decay: float = setting(1e-6, "decoupled weight decay", low=0)
    adam_epsilon: float = setting(1e-8, "added to the denominator", above=0)
    max_grad_norm: float = setting(1.0, "clip the global gradient norm to this; 0: do not clip", low=0)
    mixed_precision: str = setting(
        "auto",
        "compute precision; auto: fp16 on Ascend and GPU, no (float32) on CPU",
        choices=["auto", "no", "fp16", "bf16"],
    )
    loss_scaling: str = setting(
        "static", "dynamic halves the scale at an overflow and doubles it now and then", choices=["static", "dynamic"]
    )
    loss_scale: float | None = setting(None, "the loss scale, or the first one; 65536 with fp16, else 1", above=0)
    max_consecutive_skips: int = setting(50, "updates skipped in a row, for overflow, before the run gives up", low=1)
    gradient_checkpointing: bool = setting(False, "save memory by computing activations again going backward")
    use_ema: bool = setting(False, "keep a moving average of the weights; samples and the pipeline are made with it")
    ema_inv_gamma: float = setting(1.0, "the decay after step n is 1 - (1 + (n-1)/inv_gamma)^-power", above=0)
    ema_power: float = setting(0.75, "see ema_inv_gamma", above=0)
    ema_max_decay: float = setting(0.9999, "the decay's upper bound", low=0)
    ema_decay: float | None = setting(None, "a fixed decay instead", low=0)
    seed: int = setting(0, "decides initial weights, data order, flips, noise and samples", low=0, high=2**32 - 1)

    # evaluation and output
    eval_batch_size: int = setting(16, "images in a grid of samples", low=1)
    ddpm_num_inference_steps: int = setting(1000, "denoising steps for the grids", low=1)
    save_image_epochs: int = setting(10, "epochs between grids; 0: never", aliases=["save_images_epochs"], low=0)
    save_model_epochs: int = setting(30, "epochs between saved pipelines (and one at the end)", low=0)
    save_dtype: str = setting("float32", "type of the saved pipeline's weights", choices=["float32", "fp16", "bf16"])
    checkpointing_steps: int = setting(500, "optimiser steps between checkpoints; 0: none", low=0)
    checkpoints_total_limit: int | None = setting(2, "keep this many checkpoints, the newest; none: all", low=1)
    resume_from_checkpoint: str | None = setting(
        None, "latest; a checkpoint's folder; or auto: the latest if there is one, else start"
    )
    accept_changes: bool = setting(False, "resume although settings that decide the result have changed")
    on_checkpoint_error: str = setting(
        "continue", "when a checkpoint cannot be written: go on with the old one, or stop", choices=["continue", "stop"]
    )
    logging_dir: str = setting("logs", "folder for the tracker, inside output_dir")
    logging_steps: int = setting(10, "steps between fetches of the loss from the device", low=1)
    report_to: str = setting("tensorboard", "tracker", aliases=["logger"], choices=TRACKERS)

    push_to_hub: bool = setting(False, "upload the pipeline to the Hugging Face Hub whenever it is saved")
    hub_model_id: str | None = setting(
        None, "its repository there; by default output_dir's name, of the logged-in user"
    )
    hub_private_repo: bool = setting(False, "make that repository a private one")

    # machine
    distributed: bool = setting(False, "accepted for old command lines: a launch by msrun is noticed by itself")
    scale_lr: bool = setting(False, "multiply the learning rate by ranks x batch x accumulation")
    step_timeout_s: float = setting(
        1800.0, "with several ranks: one that takes longer for a step ends the job", above=0
    )
    device: str = setting("auto", "auto takes the first that is there", choices=["auto", "Ascend", "GPU", "CPU"])
    mode: str = setting(
        "graph", "graph compiles the step; pynative runs it operator by operator", choices=["graph", "pynative"]
    )


@dataclass
class SampleConfig:
    """Sampling from a saved pipeline."""

    model: str = setting("", "folder of a saved pipeline, or its name on the Hub")
    output_dir: str = setting("samples", "folder for the pictures and the grid")
    num_images: int = setting(16, "number of pictures", low=1)
    batch_size: int = setting(16, "pictures denoised at once; does not change them", low=1)
    scheduler: str = setting("ddpm", "sampler", choices=SAMPLERS)
    num_inference_steps: int = setting(1000, "denoising steps", low=1)
    seed: int = setting(0, "picture i depends on (seed, i) only", low=0, high=2**32 - 1)
    overwrite_output_dir: bool = setting(False, "write into an output_dir that already holds pictures")
    device: str = setting("auto", "auto takes the first that is there", choices=["auto", "Ascend", "GPU", "CPU"])
    mode: str = setting(
        "graph", "graph compiles the denoiser; pynative runs it operator by operator", choices=["graph", "pynative"]
    )


# --- command line and YAML -----------------------------------------------------------------------------------------


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


def add_arguments(parser: argparse.ArgumentParser, config_class: type) -> None:
    """One flag for each field, with its aliases. A flag that is not given leaves no trace in the result."""
    plain_types = value_types(config_class)
    parser.add_argument(
        "--config", metavar="FILE", default=None, help="YAML file with any of these settings; flags win"
    )
    for item in dataclasses.fields(config_class):
        plain, _ = plain_types[item.name]
        names = [f"--{name}" for name in (item.name, *item.metadata["aliases"])]
        text = item.metadata["help"].replace("%", "%%")
        if item.default is not None:
            text += f" (default: {item.default})"
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text}
        if plain is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
        else:
            metavar = "|".join(item.metadata["choices"]) or plain.__name__.upper()
            parser.add_argument(*names, metavar=metavar, **options)


def from_arguments(config_class: type, arguments: argparse.Namespace) -> Any:
    """Build a configuration: defaults, then the YAML file, then the flags.

    Raises:
        ConfigError: with every unknown name and every value of the wrong type.
    """
    given = {
        item.name: getattr(arguments, item.name)
        for item in dataclasses.fields(config_class)
        if hasattr(arguments, item.name)
    }
    problems: list[str] = []
    values = read_yaml(arguments.config, config_class, problems) if getattr(arguments, "config", None) else {}
    values.update(given)
    return from_dict(config_class, values, problems)


def read_yaml(path: str, config_class: type, problems: list[str]) -> dict[str, Any]:
    """Settings from a YAML file, by field name or alias; what is wrong goes into ``problems``."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"--config {path}: cannot be read ({error.strerror})")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"--config {path}: is not YAML ({first_line(error)})")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"--config {path}: must hold 'name: value' lines")
        return {}
    names = {}
    for item in dataclasses.fields(config_class):
        names.update({alias: item.name for alias in (item.name, *item.metadata["aliases"])})
    values = {}
    for key, value in content.items():
        if key in names:
            values[names[key]] = value
        else:
            close = difflib.get_close_matches(str(key), names, n=1)
            problems.append(
                f"--config {path}: unknown setting '{key}'" + (f"; did you mean '{close[0]}'?" if close else "")
            )
    return values


def from_dict(config_class: type, values: dict[str, Any], problems: list[str] | None = None) -> Any:
    """Build a configuration from values that may still be text, each converted to its field's type.

    Raises:
        ConfigError: listing ``problems`` and every value that does not convert.
    """
    problems = [] if problems is None else problems
    plain_types = value_types(config_class)
    converted = {}
    for name, value in values.items():
        plain, optional = plain_types[name]
        try:
            converted[name] = _convert(value, plain, optional)
        except (ValueError, TypeError):
            wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[plain]
            problems.append(f"--{name} {value}: must be {wanted}")
    if problems:
        raise ConfigError(*problems)
    return config_class(**converted)


def _convert(value: Any, plain: type, optional: bool) -> Any:
    if value is None or (optional and isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
        raise ValueError
    if plain is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "1", "yes", "false", "0", "no"):
            return str(value).lower() in ("true", "1", "yes")
        raise ValueError
    if plain is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if plain is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    return str(value)


def to_yaml(config: Any) -> str:
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


# --- validation ----------------------------------------------------------------------------------------------------


def check_fields(config: Any) -> list[str]:
    """Problems that one field shows by itself: choices, bounds, not-a-number."""
    problems = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value is None:
            continue
        choices, low, high, above = (item.metadata[key] for key in ("choices", "low", "high", "above"))
        if value == "" and item.default != "":
            problems.append(f"--{item.name}: must not be empty")
        elif choices and value not in choices:
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


def read_model_config(config: TrainingConfig, problems: list[str]) -> dict[str, Any] | None:
    """The UNet's settings: of the preset, or of a local ``config.json``; None where they come from the Hub."""
    if config.model_config_name_or_path is None:
        return UNET_PRESETS.get(config.preset or preset_for(config.image_size))
    path = Path(config.model_config_name_or_path)
    flag = f"--model_config_name_or_path {path}"
    if path.is_dir():
        path = next(
            (p for p in (path / "config.json", path / "unet" / "config.json") if p.is_file()), path / "config.json"
        )
    if not path.is_file():
        if os.sep in str(path) and not str(path).startswith((".", os.sep)) and len(path.parts) == 2:
            return None  # user/name on the Hub
        problems.append(f"{flag}: no such file, and no folder with a config.json")
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{flag}: is not JSON ({error})")
        return None
    name = content.get("_class_name", "UNet2DModel") if isinstance(content, dict) else type(content).__name__
    if name != "UNet2DModel":
        problems.append(f"{flag}: is the configuration of a {name}; a UNet2DModel is needed")
        return None
    return content


def check_size(image_size: int, block_out_channels: Sequence[int], flag: str = "--image_size") -> list[str]:
    divisor = size_divisor(block_out_channels)
    if image_size % divisor == 0:
        return []
    below, above = image_size // divisor * divisor, (image_size // divisor + 1) * divisor
    near = f"{below} or {above}" if below else f"{above}"
    return [
        f"{flag} {image_size}: this UNet halves the image {len(block_out_channels) - 1} times, so the size "
        f"must be a multiple of {divisor}, for example {near}"
    ]


def check_training(config: TrainingConfig) -> None:
    """Check all that can be known without the data and without MindSpore.

    Raises:
        ConfigError: with one line for each problem, all at once.
    """
    problems = check_fields(config)
    if config.dataset_name is None and config.train_data_dir is None:
        problems.append("--dataset_name or --train_data_dir: give one of them ('--dataset_name digits' is built in)")
    if config.dataset_name is not None and config.train_data_dir is not None:
        problems.append("--dataset_name and --train_data_dir: give only one of them")
    if config.channels not in (1, 3, 4) and config.channels >= 1:
        problems.append(f"--channels {config.channels}: must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    if Path(config.logging_dir).is_absolute() or {".", ".."} & set(Path(config.logging_dir).parts or ["."]):
        problems.append(f"--logging_dir {config.logging_dir}: must be a folder's name inside --output_dir")
    if config.adam_beta1 >= 1 or config.adam_beta2 >= 1:
        problems.append("--adam_beta1 and --adam_beta2: must be below 1")
    if config.ddpm_num_inference_steps > config.ddpm_num_steps:
        problems.append(
            f"--ddpm_num_inference_steps {config.ddpm_num_inference_steps}: must be at most "
            f"--ddpm_num_steps ({config.ddpm_num_steps})"
        )
    if config.preset is not None and config.model_config_name_or_path is not None:
        problems.append("--preset and --model_config_name_or_path: give only one of them")
    if max(config.ema_max_decay, config.ema_decay or 0.0) > 1:
        problems.append("--ema_max_decay and --ema_decay: must be at most 1")
    model = read_model_config(config, problems)
    if model is not None and isinstance(model.get("block_out_channels"), (list, tuple)) and config.image_size >= 2:
        problems += check_size(config.image_size, model["block_out_channels"])
    for name in ("in_channels", "out_channels"):
        if model is not None and model.get(name, config.channels) != config.channels:
            problems.append(f"--channels {config.channels}: the model's {name} is {model[name]}; they must agree")
    if problems:
        raise ConfigError(*problems)


def check_writable(folder: Path) -> None:
    """Raises ConfigError if a folder cannot be made, or written into."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"--output_dir {folder}: {existing} cannot be written into; give another folder")


def check_sampling(config: SampleConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_fields(config)
    if not config.model:
        problems.append("--model: give the folder of a saved pipeline")
    if problems:
        raise ConfigError(*problems)

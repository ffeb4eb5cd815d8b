"""Factories: the UNet and the noise scheduler that a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindone_ddpm.config import (
    ConfigError,
    TrainingConfig,
    check_size,
    first_line,
    preset_for,
    read_model_config,
)
from mindone_ddpm.runtime import quiet_imports

with quiet_imports():
    from mindone.diffusers import (
        DDIMScheduler,
        DDPMPipeline,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        UNet2DModel,
    )

PIPELINE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
)


def make_unet(config: TrainingConfig) -> UNet2DModel:
    """A UNet with fresh weights, from a preset or from ``model_config_name_or_path``.

    Raises:
        ConfigError: the configuration does not fit the images.
    """
    problems: list[str] = []
    settings = read_model_config(config, problems)
    if settings is None and not problems:
        settings = _hub_config(str(config.model_config_name_or_path))
        problems += check_size(config.image_size, settings["block_out_channels"])
        if settings.get("in_channels", 3) != config.channels:
            problems.append(
                f"--channels {config.channels}: the model's in_channels is {settings.get('in_channels', 3)}"
            )
    if problems or settings is None:
        raise ConfigError(*problems)
    fitted = {
        **{key: value for key, value in settings.items() if not key.startswith("_")},
        "sample_size": config.image_size,
        "in_channels": config.channels,
        "out_channels": config.channels,
    }
    try:
        return UNet2DModel(**fitted)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"--model_config_name_or_path {config.model_config_name_or_path}: no UNet2DModel can be made of it "
            f"({first_line(error)})"
        ) from error


def _hub_config(name: str) -> dict[str, Any]:
    try:
        return dict(UNet2DModel.load_config(name))
    except Exception as error:  # the Hub's client raises a dozen kinds
        reason = first_line(error)
        raise ConfigError(f"--model_config_name_or_path {name}: not found or not reachable ({reason})") from error


def unet_name(config: TrainingConfig) -> str:
    """What to call the UNet in a plan."""
    if config.model_config_name_or_path is not None:
        return config.model_config_name_or_path
    return f"preset {config.preset or preset_for(config.image_size)}"


def checkpoint_gradients(unet: UNet2DModel) -> None:
    """Keep only what enters each residual and attention block, and compute the rest again going backward.

    mindone's ``enable_gradient_checkpointing`` finds nothing to set in a UNet2DModel, so MindSpore's ``recompute`` is
    asked for block by block.
    """
    for _, cell in unet.cells_and_names():
        if type(cell).__name__ in ("ResnetBlock2D", "Attention"):
            cell.recompute()


def num_parameters(unet: UNet2DModel) -> int:
    return sum(parameter.size for parameter in unet.trainable_params())


def make_noise_scheduler(config: TrainingConfig) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=config.ddpm_num_steps,
        beta_schedule=config.ddpm_beta_schedule,
        prediction_type=config.prediction_type,
    )


def make_sampler(name: str, scheduler: Any) -> Any:
    """A scheduler of another kind for the same noise levels as ``scheduler``.

    Args:
        name: ``ddpm``, ``ddim`` or ``dpmsolver++``.
    """
    if name == "ddpm":
        return DDPMScheduler.from_config(scheduler.config)
    if name == "ddim":
        return DDIMScheduler.from_config(scheduler.config)
    return DPMSolverMultistepScheduler.from_config(scheduler.config, algorithm_type="dpmsolver++")


def load_pipeline(model: str) -> DDPMPipeline:
    """Load a pipeline from a folder, or from the Hub by name.

    Raises:
        ConfigError: there is none, or a part of it is missing.
    """
    folder = Path(model)
    if folder.exists():
        missing = [name for name in PIPELINE_FILES if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"--model {model}: is not a DDPM pipeline folder; it has no {', '.join(missing)}")
    elif model.count("/") != 1 or model.startswith((".", "/")):
        raise ConfigError(f"--model {model}: no such folder")
    try:
        return DDPMPipeline.from_pretrained(model)
    except Exception as error:  # mindone and the Hub's client raise many kinds
        reason = first_line(error)
        raise ConfigError(f"--model {model}: cannot be loaded ({reason})") from error

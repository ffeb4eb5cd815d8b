"""Factories: the UNet, the noise scheduler and the sampler that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindone_ddpm.backends.base import Backend
from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig, read_model_config, unet_preset
from mindone_ddpm.models.pipelines import load_pipeline
from mindone_ddpm.models.presets import check_size

with quiet_imports():
    from mindone.diffusers import DDPMScheduler, UNet2DModel


def make_unet(config: TrainingConfig, class_names: Sequence[str] = ()) -> UNet2DModel:
    """A UNet with fresh weights, from a preset or from ``model_config_name_or_path``.

    Args:
        class_names: of a class-conditional model; they are kept in its configuration. The embedding has one class
            more, for images whose label is left out.

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
        **{key: value for key, value in settings.items() if not key.startswith("_") and key != "class_names"},
        "sample_size": config.image_size,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "num_class_embeds": len(class_names) + 1 if class_names else None,
    }
    try:
        unet = UNet2DModel(**fitted)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"--model_config_name_or_path {config.model_config_name_or_path}: no UNet2DModel can be made of it "
            f"({first_line(error)})"
        ) from error
    if class_names:
        unet.register_to_config(class_names=list(class_names))
    return unet


def load_unet(config: TrainingConfig, class_names: Sequence[str] = ()) -> tuple[UNet2DModel, DDPMScheduler]:
    """The UNet and the noise levels of the pipeline that ``pretrained_model_name_or_path`` names, to go on from.

    Raises:
        ConfigError: there is none, or it does not fit the images, the classes or the other settings.
    """
    flag = f"--pretrained_model_name_or_path {config.pretrained_model_name_or_path}"
    pipeline = load_pipeline(str(config.pretrained_model_name_or_path), "--pretrained_model_name_or_path")
    unet, settings = pipeline.unet, pipeline.scheduler.config
    problems = check_size(config.image_size, unet.config.block_out_channels)
    if unet.config.in_channels != config.channels:
        problems.append(f"--channels {config.channels}: {flag} has {unet.config.in_channels}")
    if (unet.config.num_class_embeds or 0) != (len(class_names) + 1 if class_names else 0):
        has = f"{unet.config.num_class_embeds - 1} classes" if unet.config.num_class_embeds else "no classes"
        problems.append(f"--class_conditional: {flag} has {has}, the data set {len(class_names) or 'none in use'}")
    for name, ours, its in (
        ("prediction_type", config.prediction_type, settings.prediction_type),
        ("ddpm_num_steps", config.ddpm_num_steps, settings.num_train_timesteps),
        ("ddpm_beta_schedule", config.ddpm_beta_schedule, settings.beta_schedule),
    ):
        if ours not in (its, getattr(TrainingConfig, name)):
            problems.append(f"--{name} {ours}: {flag} was trained with {its}; leave the flag")
    if problems:
        raise ConfigError(*problems)
    unet.register_to_config(
        sample_size=config.image_size, **({"class_names": list(class_names)} if class_names else {})
    )
    unet.sample_size = config.image_size
    return unet, DDPMScheduler.from_config(settings)


def use_fused_attention(config: EngineConfig, unet: Any, backend: Backend) -> None:
    """Switch on mindone's fused attention where it is asked for and the device has it."""
    if config.enable_xformers_memory_efficient_attention and backend.fused_attention:
        unet.enable_xformers_memory_efficient_attention()


def _hub_config(name: str) -> dict[str, Any]:
    try:
        return dict(UNet2DModel.load_config(name))
    except Exception as error:  # the Hub's client raises a dozen kinds
        reason = first_line(error)
        raise ConfigError(f"--model_config_name_or_path {name}: not found or not reachable ({reason})") from error


def unet_name(config: TrainingConfig) -> str:
    """What to call the UNet in a plan."""
    given = config.pretrained_model_name_or_path or config.model_config_name_or_path
    return given or f"preset {unet_preset(config)}"


def checkpoint_gradients(unet: Any) -> None:
    """Keep only what enters each residual, attention and feed-forward block, and compute the rest again going backward.

    mindone's ``enable_gradient_checkpointing`` finds nothing to set in a UNet2DModel, so MindSpore's ``recompute`` is
    asked for block by block.
    """
    for _, cell in unet.cells_and_names():
        if type(cell).__name__ in ("ResnetBlock2D", "Attention", "FeedForward"):
            cell.recompute()


def num_parameters(network: Any) -> int:
    return sum(parameter.size for parameter in network.trainable_params())


def class_names(unet: UNet2DModel) -> list[str]:
    """Of a class-conditional UNet, the names of its classes, without the one for left-out labels; else empty."""
    number = unet.config.get("num_class_embeds")
    if not number:
        return []
    return list(unet.config.get("class_names") or [str(label) for label in range(number - 1)])

"""Making, loading and preparing a UNet2DModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mindone_ddpm.common.errors import ConfigError, first_line, is_out_of_memory
from mindone_ddpm.common.hubs.base import choose_hub
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.common.machine import memory_bytes
from mindone_ddpm.models.config import UNetSettings, read_model_config, unet_preset
from mindone_ddpm.models.foreign import not_fetched, read_json
from mindone_ddpm.models.limits import least_weights, odd_setting
from mindone_ddpm.models.pipelines import load_unconditional
from mindone_ddpm.models.precision import set_compute_precision
from mindone_ddpm.models.presets import check_size
from mindone_ddpm.models.schedulers import flow_shift, is_flow

with quiet_imports():
    from mindone.diffusers import UNet2DModel

BYTES_PER_WEIGHT = 4  # in float32


def make_unet(config: UNetSettings, class_names: Sequence[str] = ()) -> UNet2DModel:
    """A UNet with random weights, from a preset or from ``model_config_name_or_path``.

    Args:
        class_names: of a class-conditional model; stored in its configuration. The embedding has one class more, for
            dropped labels.

    Raises:
        ConfigError: the model's configuration is not that of a UNet2DModel, or does not fit the images.
    """
    problems: list[str] = []
    settings = read_model_config(config, problems)
    if settings is None and not problems:
        settings = _hub_config(str(config.model_config_name_or_path), config.hub)
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
        check_network(fitted)
        unet = UNet2DModel(**fitted)
    except Exception as error:  # mindone raises many kinds for settings that do not go together
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"--model_config_name_or_path {config.model_config_name_or_path}: no UNet2DModel can be made of it "
            f"({first_line(error)})"
        ) from error
    if class_names:
        unet.register_to_config(class_names=list(class_names))
    return unet


def check_network(settings: dict[str, Any]) -> None:
    """Raises ValueError if settings are no UNet2DModel's, or of one that is larger than the machine's memory."""
    problem = odd_setting(settings, UNet2DModel)
    if problem is not None:
        raise ValueError(problem)
    least = least_weights(settings)
    if least * BYTES_PER_WEIGHT > memory_bytes():
        raise ValueError(f"its {least:,} weights are more than this machine's memory holds")


class TrainableUNetSettings(UNetSettings, Protocol):
    """What a pretrained pipeline must agree with in addition."""

    objective: str
    prediction_type: str
    ddpm_num_steps: int
    ddpm_beta_schedule: str
    flow_shift: float
    data_std: float


def load_unet(config: TrainableUNetSettings, class_names: Sequence[str] = ()) -> tuple[UNet2DModel, Any]:
    """The UNet and the scheduler of the pipeline ``pretrained_model_name_or_path``, to train further.

    Args:
        class_names: of a class-conditional model; stored in its configuration.

    Raises:
        ConfigError: it cannot be loaded, or does not fit the images, the classes or the other settings.
    """
    flag = f"--pretrained_model_name_or_path {config.pretrained_model_name_or_path}"
    pipeline = load_unconditional(
        str(config.pretrained_model_name_or_path), "--pretrained_model_name_or_path", config.hub
    )
    unet = pipeline.unet
    problems = check_size(config.image_size, unet.config.block_out_channels)
    if unet.config.in_channels != config.channels:
        problems.append(f"--channels {config.channels}: {flag} has {unet.config.in_channels}")
    if (unet.config.num_class_embeds or 0) != (len(class_names) + 1 if class_names else 0):
        has = f"{unet.config.num_class_embeds - 1} classes" if unet.config.num_class_embeds else "no classes"
        problems.append(f"--class_conditional: {flag} has {has}, the data set {len(class_names) or 'none in use'}")
    problems += _noise_problems(config, pipeline.scheduler, flag)
    if problems:
        raise ConfigError(*problems)
    unet.register_to_config(
        sample_size=config.image_size, **({"class_names": list(class_names)} if class_names else {})
    )
    unet.sample_size = config.image_size
    return unet, pipeline.scheduler


def _noise_problems(config: TrainableUNetSettings, scheduler: Any, flag: str) -> list[str]:
    """One line for each setting of the noise levels that a pretrained pipeline contradicts."""
    its_objective = "flow_matching" if is_flow(scheduler) else "ddpm"
    if config.objective not in ("auto", its_objective):
        return [
            f"--objective {config.objective}: {flag} was trained as {its_objective}; leave the flag to go on like "
            "that, or give --model_config_name_or_path instead to take only its architecture and begin anew"
        ]
    settings = scheduler.config
    its: dict[str, Any] = {"ddpm_num_steps": settings.num_train_timesteps}
    if its_objective == "ddpm":
        its |= {"prediction_type": settings.prediction_type, "ddpm_beta_schedule": settings.beta_schedule}
        of_another: tuple[str, ...] = ("flow_shift", "data_std")
    else:
        its["flow_shift"] = flow_shift(scheduler)
        of_another = ("prediction_type", "ddpm_beta_schedule", "data_std")
    problems = []
    for name, value in its.items():
        ours = getattr(config, name)
        if ours not in (value, getattr(type(config), name)):
            problems.append(f"--{name} {ours}: {flag} was trained with {value}; leave the flag")
    for name in of_another:
        if getattr(config, name) != getattr(type(config), name):
            problems.append(f"--{name}: {flag} brings its own noise levels ({its_objective}); leave the flag")
    return problems


def prepare_network(network: Any, precision: str, fused_attention: bool, gradient_checkpointing: bool) -> None:
    """Prepare a network for training, in place.

    Args:
        precision: see :func:`mindone_ddpm.models.precision.set_compute_precision`.
        fused_attention: use mindone's fused attention, which only Ascend has.
        gradient_checkpointing: see :func:`checkpoint_gradients`.
    """
    set_compute_precision(network, precision)
    if fused_attention:
        network.enable_xformers_memory_efficient_attention()
    if gradient_checkpointing:
        checkpoint_gradients(network)


def _hub_config(name: str, hub: str) -> dict[str, Any]:
    flag, chosen = "--model_config_name_or_path", choose_hub(hub)
    try:
        path = chosen.fetch_file(name, UNet2DModel.config_name)
    except Exception as error:
        raise not_fetched(error, flag, name) from error
    return read_json(path, flag, name)


def unet_name(config: UNetSettings) -> str:
    """What the UNet is made from, for a person: a path, a name on the hub or a preset."""
    given = config.pretrained_model_name_or_path or config.model_config_name_or_path
    return given or f"preset {unet_preset(config)}"


def checkpoint_gradients(unet: Any) -> None:
    """Keep only the inputs of residual, attention and feed-forward blocks; the backward pass recomputes the rest.

    mindone's ``enable_gradient_checkpointing`` has no effect on a UNet2DModel, so MindSpore's ``recompute`` is set for
    each block.
    """
    for _, cell in unet.cells_and_names():
        if type(cell).__name__ in ("ResnetBlock2D", "Attention", "FeedForward"):
            cell.recompute()
            cell.is_recomputed = True  # for backends that would make one operator of it, which has nothing to recompute


def num_parameters(network: Any) -> int:
    """The number of trainable parameters, in scalars."""
    return sum(parameter.size for parameter in network.trainable_params())


def class_names(unet: UNet2DModel) -> list[str]:
    """The names of a class-conditional UNet's classes, without the one for dropped labels; empty for another UNet."""
    number = unet.config.get("num_class_embeds")
    if not number:
        return []
    names = unet.config.get("class_names")
    if isinstance(names, list | tuple) and len(names) == number - 1 and all(isinstance(name, str) for name in names):
        return list(names)
    return [str(label) for label in range(number - 1)]

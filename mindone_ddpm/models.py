"""Factories: the UNet, the noise scheduler and the sampler that a configuration asks for."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load_file, save_file

from mindone_ddpm import kernels
from mindone_ddpm.config import (
    ConfigError,
    EngineConfig,
    TrainingConfig,
    check_size,
    first_line,
    looks_like_hub_name,
    read_model_config,
    unet_preset,
)
from mindone_ddpm.runtime import quiet_imports

if TYPE_CHECKING:
    from mindone.diffusers import DDPMPipeline, StableDiffusionPipeline

with quiet_imports():
    from mindone.diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        PNDMScheduler,
        UNet2DModel,
        UniPCMultistepScheduler,
    )

PIPELINE_INDEX = "model_index.json"
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
PIPELINE_FILES = (
    PIPELINE_INDEX,
    "scheduler/scheduler_config.json",
    "unet/config.json",
    f"unet/{UNET_WEIGHTS}",
)
SCHEDULERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "pndm": PNDMScheduler,
}
# mindone has no formula for these where the UNet predicts the image itself.
WITHOUT_SAMPLE_PREDICTION = ("euler_ancestral", "pndm")


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


def use_fused_attention(config: EngineConfig, unet: Any, device: str) -> None:
    """Switch on mindone's fused attention where it is asked for and the device has it."""
    if config.enable_xformers_memory_efficient_attention and kernels.has_fused_attention(device):
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


def make_noise_scheduler(config: TrainingConfig) -> DDPMScheduler:
    """The noise levels to train on. With the last one pure noise, sampling must begin there: trailing steps."""
    return DDPMScheduler(
        num_train_timesteps=config.ddpm_num_steps,
        beta_schedule=config.ddpm_beta_schedule,
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        timestep_spacing="trailing" if config.rescale_betas_zero_snr else "leading",
    )


def make_sampler(
    name: str, scheduler: Any, clip_sample: bool | None = None, timestep_spacing: str | None = None
) -> Any:
    """A scheduler of another kind for the same noise levels as ``scheduler``.

    Args:
        name: one of ``config.SAMPLERS``.
        clip_sample, timestep_spacing: None keeps what ``scheduler`` has.

    Raises:
        ConfigError: the kind does not suit what the model predicts.
    """
    if name in WITHOUT_SAMPLE_PREDICTION and scheduler.config.prediction_type == "sample":
        raise ConfigError(f"--scheduler {name}: cannot use a model that predicts the sample; take ddim or dpmsolver++")
    given: dict[str, Any] = {"clip_sample": clip_sample, "timestep_spacing": timestep_spacing}
    changes = {key: value for key, value in given.items() if value is not None}
    if name == "dpmsolver++":
        changes["algorithm_type"] = "dpmsolver++"
    return SCHEDULERS[name].from_config(scheduler.config, **changes)


def pipeline_class(name: str) -> Any:
    """A pipeline of mindone. Imported when it is asked for: it brings all of transformers, seconds and 250 MB."""
    with quiet_imports():
        return getattr(importlib.import_module("mindone.diffusers"), name)


def make_pipeline(unet: UNet2DModel, scheduler: Any) -> DDPMPipeline:
    return pipeline_class("DDPMPipeline")(unet=unet, scheduler=scheduler)


def load_pipeline(model: str, flag: str = "--model") -> DDPMPipeline:
    """Load a DDPM or DDIM pipeline from a folder, or from the Hub by name. Weights are read as safetensors only.

    Raises:
        ConfigError: there is none, it is of another kind, or a part of it is missing.
    """
    folder = Path(model)
    if folder.is_dir():
        missing = [name for name in PIPELINE_FILES if not (folder / name).is_file()]
        if missing:
            pickled = (folder / "unet" / "diffusion_pytorch_model.bin").is_file()
            hint = "; its weights are pickled, which is not loaded: save them as safetensors" if pickled else ""
            raise ConfigError(f"{flag} {model}: is not a whole DDPM pipeline; it has no {', '.join(missing)}{hint}")
        kind = _read_json(folder / "unet" / "config.json", flag, model).get("_class_name", "UNet2DModel")
        if kind != "UNet2DModel":
            raise ConfigError(f"{flag} {model}: its unet is a {kind}; a UNet2DModel is needed")
    elif not looks_like_hub_name(model):
        raise ConfigError(f"{flag} {model}: no such folder")
    try:
        pipeline = pipeline_class("DDPMPipeline").from_pretrained(model, use_safetensors=True)
    except Exception as error:  # mindone and the Hub's client raise many kinds
        reason = first_line(error)
        raise ConfigError(f"{flag} {model}: cannot be loaded ({reason})") from error
    if not isinstance(pipeline.unet, UNet2DModel):
        raise ConfigError(f"{flag} {model}: its unet is a {type(pipeline.unet).__name__}; a UNet2DModel is needed")
    return pipeline


def latent_factor(vae: Any) -> int:
    """Pixels along a side for one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def size_divisor(pipeline: Any) -> int:
    """What the sides of a text-to-image pipeline's pictures must be a multiple of: for its autoencoder and its UNet."""
    return latent_factor(pipeline.vae) * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)


def pipeline_kind(model: str) -> str:
    """The class of a saved pipeline, as its index says, such as ``DDPMPipeline``.

    Raises:
        ConfigError: there is none.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / PIPELINE_INDEX).is_file():
            raise ConfigError(f"--model {model}: is not a pipeline; it has no {PIPELINE_INDEX}")
        return str(_read_json(folder / PIPELINE_INDEX, "--model", model).get("_class_name"))
    if not looks_like_hub_name(model):
        raise ConfigError(f"--model {model}: no such folder")
    try:
        return str(pipeline_class("DDPMPipeline").load_config(model).get("_class_name"))
    except Exception as error:  # the Hub's client raises a dozen kinds
        raise ConfigError(f"--model {model}: not found or not reachable ({first_line(error)})") from error


def load_text_pipeline(
    model: str, flag: str = "--model", revision: str | None = None, variant: str | None = None
) -> StableDiffusionPipeline:
    """Load a Stable Diffusion pipeline from a folder, or from the Hub by name. Weights are read as safetensors only.

    Raises:
        ConfigError: there is none, it is of another kind, or a part of it is missing.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / PIPELINE_INDEX).is_file():
            raise ConfigError(f"{flag} {model}: is not a pipeline; it has no {PIPELINE_INDEX}")
        index = _read_json(folder / PIPELINE_INDEX, flag, model)
        kind = index.get("_class_name")
        if kind != "StableDiffusionPipeline":
            raise ConfigError(
                f"{flag} {model}: is a {kind}, which is not supported; a StableDiffusionPipeline is needed"
            )
        parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        missing = [part for part in parts if not (folder / part).is_dir()]
        if missing:
            raise ConfigError(f"{flag} {model}: is not a whole pipeline; it has no {', '.join(missing)}")
    elif not looks_like_hub_name(model):
        raise ConfigError(f"{flag} {model}: no such folder")
    options = {name: value for name, value in (("revision", revision), ("variant", variant)) if value is not None}
    try:
        pipeline = pipeline_class("StableDiffusionPipeline").from_pretrained(
            model, safety_checker=None, requires_safety_checker=False, use_safetensors=True, **options
        )
    except Exception as error:  # mindone, transformers and the Hub's client raise many kinds
        raise ConfigError(f"{flag} {model}: cannot be loaded ({first_line(error)})") from error
    kind = type(pipeline).__name__
    if kind != "StableDiffusionPipeline":
        raise ConfigError(f"{flag} {model}: is a {kind}, which is not supported; a StableDiffusionPipeline is needed")
    return pipeline


# MindSpore's names of a parameter, and those that transformers and diffusers look for.
_TORCH_NAMES = {"gamma": "weight", "beta": "bias", "embedding_table": "weight"}


class TextPipeline:
    """What is saved of a Stable Diffusion pipeline: the same, so that diffusers loads it too.

    mindone writes its text encoder under MindSpore's parameter names, which transformers takes for unknown: it would
    go on with random weights.
    """

    def __init__(self, pipeline: StableDiffusionPipeline):
        self.pipeline = pipeline

    def save_pretrained(self, folder: str, safe_serialization: bool = True) -> None:
        self.pipeline.save_pretrained(folder, safe_serialization=safe_serialization)
        for path in (Path(folder) / "text_encoder").glob("*.safetensors"):
            weights = {}
            for name, array in load_file(path).items():
                stem, _, last = name.rpartition(".")
                weights[f"{stem}.{_TORCH_NAMES.get(last, last)}"] = array
            save_file(weights, path, metadata={"format": "pt"})


def sampler_name(scheduler: Any) -> str:
    """The name in ``config.SAMPLERS`` of a scheduler's kind, or the kind itself."""
    return next((name for name, kind in SCHEDULERS.items() if type(scheduler) is kind), type(scheduler).__name__)


def _read_json(path: Path, flag: str, model: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{flag} {model}: {path.name} is damaged ({first_line(error)})") from error


def class_names(unet: UNet2DModel) -> list[str]:
    """Of a class-conditional UNet, the names of its classes, without the one for left-out labels; else empty."""
    number = unet.config.get("num_class_embeds")
    if not number:
        return []
    return list(unet.config.get("class_names") or [str(label) for label in range(number - 1)])

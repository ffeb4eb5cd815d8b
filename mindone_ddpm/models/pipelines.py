"""Factories: the UNet, the noise scheduler and the sampler that a configuration asks for."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load_file

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import save_safetensors
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.config.groups import looks_like_hub_name

if TYPE_CHECKING:
    from mindone.diffusers import DDPMPipeline, StableDiffusionPipeline

with quiet_imports():
    from mindone.diffusers import UNet2DModel

PIPELINE_INDEX = "model_index.json"


UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"


PIPELINE_FILES = (
    PIPELINE_INDEX,
    "scheduler/scheduler_config.json",
    "unet/config.json",
    f"unet/{UNET_WEIGHTS}",
)


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
            save_safetensors(weights, path, metadata={"format": "pt"})


def _read_json(path: Path, flag: str, model: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{flag} {model}: {path.name} is damaged ({first_line(error)})") from error

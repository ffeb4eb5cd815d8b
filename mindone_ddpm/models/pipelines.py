"""Factories: the UNet, the noise scheduler and the sampler that a configuration asks for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load_file

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import save_safetensors
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.models.foreign import open_pipeline

if TYPE_CHECKING:
    from mindone.diffusers import DDPMPipeline, StableDiffusionPipeline

with quiet_imports():
    from mindone.diffusers import UNet2DModel


UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"


TEXT_PIPELINE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def pipeline_class(name: str) -> Any:
    """A pipeline of mindone. Imported when it is asked for: it brings all of transformers, seconds and 250 MB."""
    with quiet_imports():
        return getattr(importlib.import_module("mindone.diffusers"), name)


def make_pipeline(unet: UNet2DModel, scheduler: Any) -> DDPMPipeline:
    return pipeline_class("DDPMPipeline")(unet=unet, scheduler=scheduler)


def load_pipeline(model: str, flag: str = "--model") -> DDPMPipeline:
    """Load a DDPM or DDIM pipeline from a folder, or from the Hub by name.

    Raises:
        ConfigError: there is none, it is of another kind, or a part of it is missing; see
            :func:`mindone_ddpm.models.foreign.open_pipeline`.
    """
    checked = open_pipeline(model, ("DDPMPipeline", "DDIMPipeline"), flag)
    missing = [part for part in ("unet", "scheduler") if part not in checked.classes]
    if missing:
        raise ConfigError(f"{flag} {model}: is not a whole DDPM pipeline; it has no {', '.join(missing)}")
    if checked.classes["unet"] != "UNet2DModel":
        raise ConfigError(f"{flag} {model}: its unet is a {checked.classes['unet']}; a UNet2DModel is needed")
    return make_pipeline(checked.load("unet"), checked.load("scheduler"))


def latent_factor(vae: Any) -> int:
    """Pixels along a side for one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def size_divisor(pipeline: Any) -> int:
    """What the sides of a text-to-image pipeline's pictures must be a multiple of: for its autoencoder and its UNet."""
    return latent_factor(pipeline.vae) * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)


def load_text_pipeline(
    model: str, flag: str = "--model", revision: str | None = None, variant: str | None = None
) -> StableDiffusionPipeline:
    """Load a Stable Diffusion pipeline from a folder, or from the Hub by name.

    Raises:
        ConfigError: there is none, it is of another kind, or a part of it is missing; see
            :func:`mindone_ddpm.models.foreign.open_pipeline`.
    """
    checked = open_pipeline(model, ("StableDiffusionPipeline",), flag, revision, variant)
    missing = [part for part in TEXT_PIPELINE_PARTS if part not in checked.classes]
    if missing:
        raise ConfigError(f"{flag} {model}: is not a whole pipeline; it has no {', '.join(missing)}")
    of_variant = {"variant": variant} if variant is not None else {}
    parts = {part: checked.load(part, **of_variant) for part in ("unet", "vae", "text_encoder")}
    parts |= {part: checked.load(part) for part in ("tokenizer", "scheduler")}
    extractor = checked.load("feature_extractor") if "feature_extractor" in checked.classes else None
    return pipeline_class("StableDiffusionPipeline")(
        **parts, safety_checker=None, feature_extractor=extractor, requires_safety_checker=False
    )


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

"""Pipelines of mindone: made, loaded, saved."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors.numpy import load_file

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import save_safetensors, write_text
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.models.foreign import PIPELINE_INDEX, WITH_WEIGHTS, load_vae, open_pipeline
from mindone_ddpm.models.text_encoder import use_mint_operators

if TYPE_CHECKING:
    from mindone.diffusers import DDPMPipeline, StableDiffusionPipeline

with quiet_imports():
    from mindone.diffusers import UNet2DModel
    from mindone.diffusers import __version__ as diffusers_version


UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_PIPELINE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
XL_PIPELINE, XL_PARTS = "StableDiffusionXLPipeline", ("text_encoder_2", "tokenizer_2")
TEXT_PIPELINES = ("StableDiffusionPipeline", XL_PIPELINE)


def pipeline_class(name: str) -> Any:
    """A pipeline class of mindone. Imported on first use: it imports transformers, which takes seconds and 250 MB."""
    with quiet_imports():
        return getattr(importlib.import_module("mindone.diffusers"), name)


class Unconditional(NamedTuple):
    """The parts of a DDPM pipeline: all that sampling and evaluation need. mindone's class takes seconds to import."""

    unet: UNet2DModel
    scheduler: Any


def make_pipeline(unet: UNet2DModel, scheduler: Any) -> DDPMPipeline:
    """A pipeline of these two parts; not copied."""
    return pipeline_class("DDPMPipeline")(unet=unet, scheduler=scheduler)


def save_pipeline(unet: UNet2DModel, scheduler: Any, folder: Path) -> None:
    """Write into a folder what ``save_pretrained`` of mindone's DDPMPipeline writes."""
    unet.save_pretrained(str(folder / "unet"), safe_serialization=True)
    scheduler.save_pretrained(str(folder / "scheduler"))
    parts = {name: ["diffusers", type(part).__name__] for name, part in (("scheduler", scheduler), ("unet", unet))}
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers_version, **parts}
    write_text(folder / PIPELINE_INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")


def load_pipeline(model: str, flag: str = "--model", hub: str = HUGGINGFACE) -> DDPMPipeline:
    """As :func:`load_unconditional`, as a pipeline of mindone."""
    return make_pipeline(*load_unconditional(model, flag, hub))


def load_unconditional(model: str, flag: str = "--model", hub: str = HUGGINGFACE) -> Unconditional:
    """Load the parts of a DDPM or DDIM pipeline from a folder, or from a hub by name.

    Raises:
        ConfigError: there is none, it is of another kind, or a part of it is missing; see
            :func:`mindone_ddpm.models.foreign.open_pipeline`.
    """
    checked = open_pipeline(model, ("DDPMPipeline", "DDIMPipeline"), flag, hub=hub)
    missing = [part for part in ("unet", "scheduler") if part not in checked.classes]
    if missing:
        raise ConfigError(f"{flag} {model}: is not a whole DDPM pipeline; it has no {', '.join(missing)}")
    if checked.classes["unet"] != "UNet2DModel":
        raise ConfigError(f"{flag} {model}: its unet is a {checked.classes['unet']}; a UNet2DModel is needed")
    return Unconditional(checked.load("unet"), checked.load("scheduler"))


def latent_factor(vae: Any) -> int:
    """The side of an image, divided by the side of its latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def size_divisor(pipeline: Any) -> int:
    """What the sides of a text-to-image pipeline's images must be a multiple of, for its autoencoder and its UNet."""
    return latent_factor(pipeline.vae) * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)


def is_xl(pipeline: Any) -> bool:
    """Whether a text-to-image pipeline is of Stable Diffusion XL: it has a second text encoder."""
    return getattr(pipeline, "text_encoder_2", None) is not None


def text_encoders(pipeline: Any) -> dict[str, Any]:
    """The text encoders of a text-to-image pipeline, by their names in it."""
    names = ("text_encoder", "text_encoder_2") if is_xl(pipeline) else ("text_encoder",)
    return {name: getattr(pipeline, name) for name in names}


def tokenizers(pipeline: Any) -> list[Any]:
    return [pipeline.tokenizer, pipeline.tokenizer_2] if is_xl(pipeline) else [pipeline.tokenizer]


def load_text_pipeline(
    model: str,
    flag: str = "--model",
    revision: str | None = None,
    variant: str | None = None,
    kinds: Sequence[str] = TEXT_PIPELINES,
    vae: str | None = None,
    hub: str = HUGGINGFACE,
) -> StableDiffusionPipeline:
    """Load a Stable Diffusion pipeline from a folder, or from a hub by name.

    Args:
        kinds: the pipeline classes that are accepted.
        vae: another autoencoder, in a folder or on the hub, instead of the pipeline's own.
        hub: of :data:`mindone_ddpm.common.hubs.HUBS`.

    Raises:
        ConfigError: there is none, it is of another kind, or a part of it is missing; see
            :func:`mindone_ddpm.models.foreign.open_pipeline`.
    """
    checked = open_pipeline(model, kinds, flag, revision, variant, hub)
    of_xl = checked.class_name == XL_PIPELINE
    wanted = (*TEXT_PIPELINE_PARTS, *(XL_PARTS if of_xl else ()))
    missing = [part for part in wanted if part not in checked.classes]
    if missing:
        raise ConfigError(f"{flag} {model}: is not a whole pipeline; it has no {', '.join(missing)}")
    of_variant = {"variant": variant} if variant is not None else {}
    parts = {part: checked.load(part, **(of_variant if part in WITH_WEIGHTS else {})) for part in wanted}
    if vae is not None:
        parts["vae"] = load_vae(vae, hub=hub)
    for name in ("text_encoder", "text_encoder_2"):
        if name in parts:
            use_mint_operators(parts[name])
    if of_xl:
        zeros = checked.index.get("force_zeros_for_empty_prompt", True) is not False
        return pipeline_class(XL_PIPELINE)(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    extractor = checked.load("feature_extractor") if "feature_extractor" in checked.classes else None
    return pipeline_class("StableDiffusionPipeline")(
        **parts, safety_checker=None, feature_extractor=extractor, requires_safety_checker=False
    )


# MindSpore's names of parameters, and PyTorch's, which transformers and diffusers expect.
_TORCH_NAMES = {"gamma": "weight", "beta": "bias", "embedding_table": "weight"}


def save_text_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save a Stable Diffusion pipeline in a form that diffusers loads, too.

    mindone saves the text encoder with MindSpore's parameter names. transformers does not know them, and would leave
    the weights random. So they are renamed.
    """
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    for path in folder.glob("text_encoder*/*.safetensors"):
        weights = {}
        for name, array in load_file(path).items():
            stem, _, last = name.rpartition(".")
            weights[f"{stem}.{_TORCH_NAMES.get(last, last)}"] = array
        save_safetensors(weights, path, metadata={"format": "pt"})

"""Pipelines of others: checked before any library opens them. The one place that decides what is loaded.

A pipeline's ``model_index.json`` names a library and a class for each part, and the libraries import whatever it names,
a Python file of the folder itself among it. Here the index is read as data: only known classes of known libraries are
loaded, each by this package's own table, from safetensors and JSON alone. Code and pickles are never read.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import irregular_in
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.common.hubs.base import choose_hub
from mindone_ddpm.common.json_files import MOST_BYTES, read_table
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.config.values import looks_like_hub_name
from mindone_ddpm.models.limits import MOST, least_weights, odd_setting, stored_weights

PIPELINE_INDEX = "model_index.json"
LIBRARIES = ("diffusers", "mindone.diffusers", "transformers", "mindone.transformers")
SCHEDULER_CLASSES = (
    *("DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"),
    *("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"),
    *("FlowMatchHeunDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler"),
    "UniPCMultistepScheduler",
)
# For each part of a pipeline, the classes that are loaded, and where each is imported from.
KNOWN_CLASSES: dict[str, dict[str, str]] = {
    "scheduler": dict.fromkeys(SCHEDULER_CLASSES, "mindone.diffusers"),
    "unet": dict.fromkeys(("UNet2DModel", "UNet2DConditionModel"), "mindone.diffusers"),
    "vae": {"AutoencoderKL": "mindone.diffusers"},
    "text_encoder": {"CLIPTextModel": "mindone.transformers"},
    "text_encoder_2": {"CLIPTextModelWithProjection": "mindone.transformers"},
    **dict.fromkeys(
        ("tokenizer", "tokenizer_2"), dict.fromkeys(("CLIPTokenizer", "CLIPTokenizerFast"), "transformers")
    ),
    "feature_extractor": dict.fromkeys(("CLIPImageProcessor", "CLIPFeatureExtractor"), "transformers"),
}
NEVER_LOADED = ("safety_checker", "image_encoder")
WITH_WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
MOST_TOKENS = 4096  # of a text: CLIP's encoders take 77
VOCABULARY = "vocab.json"  # of a tokenizer as transformers 4 writes it
VARIANT = re.compile(r"(?:model|diffusion_pytorch_model)(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
PART_NAME = re.compile(r"\w{1,100}")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What is fetched from a hub. Weights of other precisions lie beside those that are wanted.
FETCHED = (PIPELINE_INDEX, "*/*.json", "*/*.txt", "*/*.safetensors")
FETCHED_ALONE = ("config.json", "*.safetensors", "*.safetensors.index.json")  # of a network that is no pipeline
OTHER_WEIGHTS = ("*/*.fp16*.safetensors", "*/*.bf16*.safetensors", "*/*.non_ema*.safetensors")


@dataclass(frozen=True)
class CheckedPipeline:
    """A pipeline's folder on this machine, all of whose parts are known.

    Attributes:
        class_name: of the pipeline, such as ``DDPMPipeline``.
        classes: of each part by its name, such as ``unet``.
        index: what its index says, as data.
    """

    folder: Path
    class_name: str
    classes: dict[str, str]
    flag: str
    model: str
    index: dict[str, Any] = field(default_factory=dict)

    def load(self, part: str, known_as: str | None = None, **options: Any) -> Any:
        """A part, with its weights from safetensors.

        Args:
            known_as: the part's name in :data:`KNOWN_CLASSES`, if its folder has another.

        Raises:
            ConfigError: it cannot be loaded.
        """
        name, known_as = self.classes[part], known_as or part
        if part.startswith("tokenizer") and not (self.folder / part / VOCABULARY).exists():
            name = "CLIPTokenizerFast"  # transformers 5 writes tokenizer.json alone, which only this class reads
        with quiet_imports():
            kind = getattr(importlib.import_module(KNOWN_CLASSES[known_as][name]), name)
        if known_as in WITH_WEIGHTS:
            options = {"use_safetensors": True, "variant": only_variant(self.folder / part), **options}
        try:
            self._check_settings(part, known_as, kind)
            loaded = kind.from_pretrained(str(self.folder / part), **options)
            if known_as in TOKENIZERS:
                check_tokenizer(loaded)
            return loaded
        except Exception as error:  # mindone and transformers raise many kinds
            raise ConfigError(
                f"{self.flag} {self.model}: its {known_as} cannot be loaded ({first_line(error)})"
            ) from error

    def _check_settings(self, part: str, known_as: str, kind: type) -> None:
        """Raises ValueError if a part's settings are none, or ask for a larger network than its weights are of."""
        if known_as not in (*WITH_WEIGHTS, "scheduler"):
            return
        name = SCHEDULER_CONFIG if known_as == "scheduler" else CONFIG
        settings = read_table(self.folder / part / name)
        problem = odd_setting(settings, getattr(kind, "config_class", None) or kind)
        if problem is not None:
            raise ValueError(f"{name}: {problem}")
        if known_as in WITH_WEIGHTS and least_weights(settings) > stored_weights(self.folder / part):
            raise ValueError(f"its weights are of a smaller network than {name} describes")


def check_tokenizer(tokenizer: Any) -> None:
    """Raises an error of some kind if a tokenizer does not make rows of numbers, all of one length, from texts."""
    longest = tokenizer.model_max_length
    if type(longest) is not int or not 1 <= longest <= MOST_TOKENS:
        raise ValueError(f"model_max_length is {longest!s:.80}")
    for word, number in tokenizer.get_vocab().items():
        if type(number) is not int or not 0 <= number <= MOST:
            raise ValueError(f"its vocabulary has {number!s:.80} for {word!r:.80}, not a number")
    texts = ["a photo", "", *map(chr, range(32, 256))]  # every byte of a text must have a number, or be "unknown"
    rows = tokenizer(texts, max_length=longest, padding="max_length", truncation=True).input_ids
    if np.asarray(rows, np.int32).shape != (len(texts), longest):
        raise ValueError("texts do not become rows of one length")
    tokenizer("a photo", truncation=False, verbose=False)


def only_variant(folder: Path) -> str | None:
    """The variant of a part's weight files, such as fp16, where there are no others; else None."""
    found = {VARIANT.match(path.name) for path in folder.glob("*.safetensors")}
    variants = {match.group(1) for match in found if match is not None}  # None: plain
    return next(iter(variants)) if len(variants) == 1 else None


def open_pipeline(
    model: str,
    kinds: Sequence[str],
    flag: str = "--model",
    revision: str | None = None,
    variant: str | None = None,
    hub: str = HUGGINGFACE,
) -> CheckedPipeline:
    """Check a pipeline in a folder, or fetch it from a hub by name and check it. Nothing of it is loaded yet.

    Args:
        kinds: the pipeline classes that are accepted.
        flag: to name in errors.
        revision, variant: on the hub; of the weight files.
        hub: of :data:`mindone_ddpm.common.hubs.HUBS`.

    Raises:
        ConfigError: there is none, a part is missing, or it asks for something that is not loaded.
    """
    folder = Path(model)
    if not os.path.isdir(folder):
        if not looks_like_hub_name(model):
            raise ConfigError(f"{flag} {model}: no such folder")
        folder = _fetch(model, flag, revision, variant, hub)
    index = read_index(folder, flag, model)
    if index["_class_name"] not in kinds:
        raise ConfigError(
            f"{flag} {model}: is a {index['_class_name'][:100]}, which is not supported; a {' or '.join(kinds)} is "
            "needed"
        )
    classes = {
        part: _known_class(part, named, flag, model)
        for part, named in index.items()
        if isinstance(named, list) and part not in NEVER_LOADED and any(item is not None for item in named)
    }
    for part, name in classes.items():
        _check_part(folder / part, part, name, flag, model)
    return CheckedPipeline(folder, index["_class_name"], classes, flag, model, index)


def load_vae(model: str, flag: str = "--pretrained_vae_model_name_or_path", hub: str = HUGGINGFACE) -> Any:
    """An autoencoder alone, from a folder that holds it or from a hub by name. Raises ConfigError."""
    folder, name = Path(model), "AutoencoderKL"
    if not os.path.isdir(folder):
        if not looks_like_hub_name(model):
            raise ConfigError(f"{flag} {model}: no such folder")
        folder = _fetch(model, flag, None, None, hub, FETCHED_ALONE)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{flag} {model}: is no autoencoder; it has no config.json")
    kind = str(read_json(folder / "config.json", flag, model).get("_class_name"))
    if kind != name:
        raise ConfigError(f"{flag} {model}: is a {kind[:100]}; an {name} is needed")
    _check_part(folder, "vae", name, flag, model)
    return CheckedPipeline(folder.parent, "", {folder.name: name}, flag, model).load(folder.name, known_as="vae")


def pipeline_kind(model: str, flag: str = "--model", revision: str | None = None, hub: str = HUGGINGFACE) -> str:
    """The class of a saved pipeline, as its index says, such as ``DDPMPipeline``. Raises ConfigError."""
    folder = Path(model)
    if os.path.isdir(folder):
        return str(read_index(folder, flag, model)["_class_name"])
    if not looks_like_hub_name(model):
        raise ConfigError(f"{flag} {model}: no such folder")
    chosen = choose_hub(hub)
    try:
        path = chosen.fetch_file(model, PIPELINE_INDEX, revision)
    except Exception as error:
        raise not_fetched(error, flag, model) from error
    return str(read_index(path.parent, flag, model)["_class_name"])


def read_index(folder: Path, flag: str, model: str) -> dict[str, Any]:
    """A pipeline's index, with a class name that is text. Raises ConfigError."""
    if not (folder / PIPELINE_INDEX).is_file():
        raise ConfigError(f"{flag} {model}: is not a pipeline; it has no {PIPELINE_INDEX}")
    index = read_json(folder / PIPELINE_INDEX, flag, model)
    if not isinstance(index.get("_class_name"), str):
        raise ConfigError(f"{flag} {model}: {PIPELINE_INDEX} names no known pipeline class; custom code is not loaded")
    return index


def read_json(path: Path, flag: str, model: str) -> dict[str, Any]:
    """A JSON object from a file of a sensible size. Raises ConfigError."""
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{flag} {model}: {path.name} is damaged ({first_line(error)})") from error


def part_names(index: Mapping[str, Any]) -> list[str]:
    """The parts that an index names: folders beside it, and no paths to elsewhere."""
    return [name for name, entry in index.items() if isinstance(entry, list) and PART_NAME.fullmatch(name)]


def _fetch(
    model: str, flag: str, revision: str | None, variant: str | None, hub: str, patterns: Sequence[str] = FETCHED
) -> Path:
    chosen = choose_hub(hub)
    others = [pattern for pattern in OTHER_WEIGHTS if variant is None or f".{variant}" not in pattern]
    others += [f"{part}/*" for part in NEVER_LOADED]
    try:
        return chosen.fetch(model, patterns, others, revision)
    except Exception as error:
        raise not_fetched(error, flag, model) from error


def not_fetched(error: Exception, flag: str, model: str) -> ConfigError:
    """What to raise instead of what a hub's client has raised; a dozen kinds are known."""
    if isinstance(error, ConfigError):
        return error
    return ConfigError(f"{flag} {model}: not found or not reachable ({first_line(error)})")


def _known_class(part: str, named: list[Any], flag: str, model: str) -> str:
    """The class that an index names for a part, if it is a known one."""
    library, name = named if len(named) == 2 else (None, None)
    known = KNOWN_CLASSES.get(part, {})
    if not (isinstance(name, str) and isinstance(library, str) and library in LIBRARIES and name in known):
        shown = ".".join(str(item) for item in named)[:100]
        raise ConfigError(
            f"{flag} {model}: its {part} is a {shown}, which is not loaded; known are "
            f"{', '.join(known) if len(known) < 8 else 'the schedulers of diffusers'}"
            if known
            else f"{flag} {model}: has a {part[:50]} ({shown}), which is not loaded"
        )
    return name


def _check_part(folder: Path, part: str, name: str, flag: str, model: str) -> None:
    """A part's own files: no references to code, and weights that are not pickled."""
    if not folder.is_dir():
        raise ConfigError(f"{flag} {model}: is not a whole pipeline; it has no {part}")
    odd = irregular_in(folder)
    if odd is not None:
        raise ConfigError(f"{flag} {model}: {part}/{odd.name} is neither a file nor a folder")
    large = [path.name for path in folder.iterdir() if path.suffix in (".json", ".txt") and _size(path) > MOST_BYTES]
    if large:
        raise ConfigError(f"{flag} {model}: {part}/{large[0]} is larger than {MOST_BYTES >> 20} MiB")
    for path in sorted(folder.glob("*.json")):
        if not path.name.endswith(("config.json",)):
            continue
        settings = read_json(path, flag, model)
        if "auto_map" in settings:
            raise ConfigError(f"{flag} {model}: {part}/{path.name} asks for code of its own, which is not loaded")
        kind = settings.get("_class_name", name)
        is_known = isinstance(kind, str) and part == "scheduler" and kind in KNOWN_CLASSES[part]
        if kind != name and not is_known:
            raise ConfigError(f"{flag} {model}: its {part} is a {str(kind)[:100]}; a {name} is needed")
    if part in WITH_WEIGHTS and not list(folder.glob("*.safetensors")):
        pickled = any(path.suffix in PICKLES for path in folder.iterdir())
        hint = (
            "; its weights are pickled, which is not loaded: with PyTorch, diffusers' from_pretrained reads it and "
            "save_pretrained writes it as safetensors"
            if pickled
            else ""
        )
        raise ConfigError(f"{flag} {model}: is not a whole pipeline; {part} has no weights as safetensors{hint}")


def _size(path: Path) -> int:
    return path.stat().st_size

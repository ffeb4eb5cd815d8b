"""Which weights of a Stable Diffusion pipeline train, and what is saved of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from mindspore import Parameter

from mindone_ddpm.jobs.text_to_image.config import AdapterConfig
from mindone_ddpm.models import lora
from mindone_ddpm.models.pipelines import is_xl, save_text_pipeline, text_encoders
from mindone_ddpm.models.precision import freeze
from mindone_ddpm.models.weights import AdapterWeights, LooseParameters, NetworkWeights, WholeNetwork


class TrainedParts(Protocol):
    """The weights that train.

    Attributes:
        description: of them, for the plan.
        text_encoder_trains: whether embeddings of texts change in training.
    """

    description: str
    text_encoder_trains: bool

    def trainable(self) -> dict[str, Parameter]:
        """See :class:`mindone_ddpm.jobs.base.Job`."""

    def weights(self) -> dict[str, NetworkWeights]:
        """See :class:`mindone_ddpm.jobs.base.Job`."""

    def save(self, folder: Path) -> None:
        """Write the result into an empty folder."""


class WholeNetworks:
    """See :class:`TrainedParts`. All weights of the UNet, and of the text encoders if that is asked for."""

    def __init__(self, base: Any, train_text_encoder: bool):
        self.base, self.text_encoder_trains = base, train_text_encoder
        self.encoders = text_encoders(base)
        self.description = f"its UNet and its {name_of_encoders(base)}" if train_text_encoder else "its UNet"
        for name, encoder in self.encoders.items():
            for key, parameter in encoder.parameters_and_names():
                parameter.requires_grad = train_text_encoder
                parameter.name = f"{name}.{key}"  # both encoders of XL have the same names

    def trainable(self) -> dict[str, Parameter]:
        found = dict(_trainable(self.base.unet))
        for name, encoder in self.encoders.items():
            found |= {f"{name}.{key}": one for key, one in _trainable(encoder).items()}
        return found

    def weights(self) -> dict[str, NetworkWeights]:
        found: dict[str, NetworkWeights] = {"unet": WholeNetwork(self.base.unet)}
        if self.text_encoder_trains:
            found |= {name: LooseParameters(_trainable(encoder)) for name, encoder in self.encoders.items()}
        return found

    def save(self, folder: Path) -> None:
        """The whole pipeline. The scheduler is the one that it came with."""
        save_text_pipeline(self.base, folder)


class Adapters:
    """See :class:`TrainedParts`. Adapters on the UNet, and on the text encoders if that is asked for."""

    def __init__(self, base: Any, config: AdapterConfig):
        assert config.rank is not None
        self.text_encoder_trains = config.train_text_encoder
        self.networks = {"unet": base.unet}
        lora.add_adapters(base.unet, config.rank, config.lora_alpha, config.lora_target_modules.split(","))
        for name, encoder in text_encoders(base).items():
            freeze(encoder)
            if config.train_text_encoder:
                called = name.replace("_", " ")
                lora.add_adapters(encoder, config.rank, config.lora_alpha, lora.TEXT_TARGETS, name_of=called)
                self.networks[name] = encoder
        where = f"it and its {name_of_encoders(base)}" if config.train_text_encoder else "it"
        self.description = f"LoRA adapters of rank {config.rank} on {where}"

    def trainable(self) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {}
        for name, network in self.networks.items():
            prefix = "" if name == "unet" else f"{name}."
            found |= {f"{prefix}{key}": one for key, one in _trainable(network).items()}
        return found

    def weights(self) -> dict[str, NetworkWeights]:
        return {name: AdapterWeights(network) for name, network in self.networks.items()}

    def save(self, folder: Path) -> None:
        """The adapters alone."""
        lora.save_adapters(self.networks, folder)


def _trainable(network: Any) -> dict[str, Parameter]:
    return {name: one for name, one in network.parameters_and_names() if one.requires_grad}


def name_of_encoders(base: Any) -> str:
    return "text encoders" if is_xl(base) else "text encoder"


def trained_parts(base: Any, config: AdapterConfig) -> TrainedParts:
    """
    Raises:
        ConfigError: see :func:`mindone_ddpm.models.lora.add_adapters`.
    """
    return WholeNetworks(base, config.train_text_encoder) if config.rank is None else Adapters(base, config)

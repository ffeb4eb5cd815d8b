"""What a checkpoint stores of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from mindspore import Parameter

from mindone_ddpm.common.files import save_safetensors
from mindone_ddpm.models import lora
from mindone_ddpm.models.pipelines import UNET_WEIGHTS


class NetworkWeights(Protocol):
    """One network in a checkpoint. ``file_name``: the safetensors file that :meth:`save` writes into its folder."""

    file_name: str

    def parameters(self) -> list[tuple[str, Parameter]]:
        """The stored parameters, by their names in the file."""

    def save(self, folder: Path) -> None:
        """Write the file, and what describes the network, into a new folder."""


class WholeNetwork:
    """All parameters of a network of mindone, in diffusers' folder form: weights and ``config.json``."""

    file_name = UNET_WEIGHTS

    def __init__(self, network: Any):
        self.network = network

    def parameters(self) -> list[tuple[str, Parameter]]:
        return list(self.network.parameters_and_names())

    def save(self, folder: Path) -> None:
        self.network.save_pretrained(str(folder), max_shard_size="1000GB")  # in one file, whatever its size


class LooseParameters:
    """Some trained parameters that belong to no network's file."""

    file_name = "parameters.safetensors"

    def __init__(self, parameters: dict[str, Parameter]):
        self._parameters = parameters

    def parameters(self) -> list[tuple[str, Parameter]]:
        return list(self._parameters.items())

    def save(self, folder: Path) -> None:
        folder.mkdir()
        save_safetensors({name: value.asnumpy() for name, value in self._parameters.items()}, folder / self.file_name)


class AdapterWeights:
    """The LoRA adapters of a network alone."""

    file_name = lora.STATE_FILE

    def __init__(self, network: Any):
        self.network = network

    def parameters(self) -> list[tuple[str, Parameter]]:
        return lora.named_adapters(self.network)

    def save(self, folder: Path) -> None:
        lora.save_state(self.network, folder)

"""The jobs: what each is called, and what the engine asks of one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig, check_text_to_image
from mindone_ddpm.jobs.unconditional.config import TrainingConfig, check_training
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.sampling.config import InpaintConfig, InterpolateConfig, SampleConfig

if TYPE_CHECKING:
    import numpy as np
    from mindspore import Parameter, Tensor
    from mindspore.nn import Cell

    from mindone_ddpm.data.records import ImageRecords
    from mindone_ddpm.evaluation.evaluator import Evaluator
    from mindone_ddpm.models.weights import NetworkWeights
    from mindone_ddpm.output.product import Product
    from mindone_ddpm.runtime.start import Runtime


class JobSpec(NamedTuple):
    config: type
    target: str
    help: str


JOBS = {
    "train": JobSpec(TrainingConfig, "mindone_ddpm.jobs.unconditional.job:UnconditionalJob", "train a UNet on images"),
    "train_text_to_image": JobSpec(
        TextToImageConfig,
        "mindone_ddpm.jobs.text_to_image.job:TextToImageJob",
        "fine-tune Stable Diffusion on captioned images",
    ),
}


def load_job(name: str) -> Any:
    module, _, attribute = JOBS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


# What each command takes; those that are not here take no configuration.
CONFIG_OF_COMMAND: dict[str, Any] = {
    "train": TrainingConfig,
    "train_text_to_image": TextToImageConfig,
    "preview": TrainingConfig,
    "sample": SampleConfig,
    "inpaint": InpaintConfig,
    "interpolate": InterpolateConfig,
    "evaluate": EvaluateConfig,
    "push": PushConfig,
}


def check(config: EngineConfig) -> None:
    """Check a training configuration of any kind. Raises ConfigError."""
    if isinstance(config, TrainingConfig):
        check_training(config)
    elif isinstance(config, TextToImageConfig):
        check_text_to_image(config)


class Job(Protocol):
    """One kind of training: its data, its networks, its loss, its result. It has no loop of its own.

    Attributes:
        columns: names of the arrays of a batch that :meth:`make_batch` makes and the loss cell takes.
        datasets: the first decides how many samples an epoch has and in what order; all are fingerprinted.
        product: the files that make the result complete, and how it is used.
        num_samples: images in a grid of samples; 0: none are made.
        num_sampling_steps: how often :meth:`sample` calls ``on_step``.
        steps_show_images: whether ``on_step`` receives images in [-1, 1] (and not latents).
    """

    columns: tuple[str, ...]
    datasets: Sequence[ImageRecords]
    product: Product
    num_samples: int
    num_sampling_steps: int
    steps_show_images: bool

    @classmethod
    def open_data(cls, config: Any) -> list[ImageRecords]:
        """The data sets alone, without MindSpore's device: for a preview."""

    @classmethod
    def open(cls, config: Any, runtime: Runtime) -> Job:
        """Open data (and make it first, where it must be made) and models; put networks in the right precision.

        Raises:
            ConfigError, DataError: what cannot be used.
        """

    def trainable(self) -> dict[str, Parameter]:
        """The float32 parameters that training changes, by unique names, in a fixed order."""

    def weights(self) -> dict[str, NetworkWeights]:
        """What a checkpoint stores of the networks, by folder name; together they hold all of :meth:`trainable`."""

    def identity(self) -> dict[str, Any]:
        """What must be the same on resume beside settings and data, and decides the compiled graph; JSON."""

    def before_training(self, show_progress: bool) -> None:
        """Called once before the first batch, on every rank: caches of decoded images, of latents, ..."""

    def make_batch(self, indices: np.ndarray, rngs: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """The columns of a batch. Sample ``i`` draws from ``rngs[i]`` alone, always in the same order.

        Called in data workers: it must not use MindSpore.
        """

    def loss_cell(self) -> Cell:
        """A cell whose ``construct`` has the columns as parameters, by name, and returns the loss of each sample,
        float32 of shape (batch,). Parameters without a column must have the default None."""

    def sample(self, sample_ids: Sequence[int], on_step: Callable[[Tensor], object]) -> np.ndarray:
        """Images by their ids, values in [0, 1], float32 of shape (len(sample_ids), height, width, channels).

        ``on_step`` is called after each denoising step.
        """

    def save(self, folder: Path) -> None:
        """Write the result (a pipeline, adapters) into an empty folder."""

    def describe(self) -> dict[str, str]:
        """Lines on data and model for the plan, by heading."""

    def evaluators(self) -> list[Evaluator]:
        """What is measured every so many steps and at the end."""


def job_class(config: Any) -> type[Job]:
    """The job that trains a configuration."""
    name = next(name for name, spec in JOBS.items() if spec.config is type(config))
    return load_job(name)

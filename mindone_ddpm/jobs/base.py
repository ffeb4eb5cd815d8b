"""The jobs: what each is called, and what the engine asks of one. Free of MindSpore until a job is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.config.parse import command_in, read_yaml
from mindone_ddpm.jobs.dreambooth.config import DreamBoothConfig
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig, TextToImageXLConfig
from mindone_ddpm.jobs.textual_inversion.config import TextualInversionConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import numpy as np
    from mindspore import Parameter, Tensor
    from mindspore.nn import Cell

    from mindone_ddpm.data.records import ImageRecords, Samples
    from mindone_ddpm.evaluation.evaluator import Evaluator
    from mindone_ddpm.models.weights import NetworkWeights
    from mindone_ddpm.output.product import Product
    from mindone_ddpm.runtime.start import Runtime

ENTRY_POINT_GROUP = "mindone_ddpm.jobs"


class JobSpec(NamedTuple):
    """A job as the command line knows it.

    Attributes:
        config: its configuration, a dataclass that inherits EngineConfig.
        target: the class that implements :class:`Job`, as ``module:Class``; imported when a run begins.
        help: one line for the list of commands.
    """

    config: type
    target: str
    help: str


BUILT_IN: dict[str, JobSpec] = {
    "train": JobSpec(TrainingConfig, "mindone_ddpm.jobs.unconditional.job:UnconditionalJob", "train a UNet on images"),
    "train_text_to_image": JobSpec(
        TextToImageConfig,
        "mindone_ddpm.jobs.text_to_image.job:TextToImageJob",
        "fine-tune Stable Diffusion on captioned images",
    ),
    "train_text_to_image_sdxl": JobSpec(
        TextToImageXLConfig,
        "mindone_ddpm.jobs.text_to_image.job:TextToImageXLJob",
        "fine-tune Stable Diffusion XL on captioned images",
    ),
    "train_dreambooth": JobSpec(
        DreamBoothConfig,
        "mindone_ddpm.jobs.dreambooth.job:DreamBoothJob",
        "teach Stable Diffusion a subject from a few images",
    ),
    "textual_inversion": JobSpec(
        TextualInversionConfig,
        "mindone_ddpm.jobs.textual_inversion.job:TextualInversionJob",
        "teach Stable Diffusion a new word from a few images",
    ),
}


class Jobs(Mapping[str, JobSpec]):
    """All jobs by the names of their commands: the built-in ones, and those of other packages.

    Another package adds a job by an entry point of the group ``mindone_ddpm.jobs``: its name is the command, its value
    a :class:`JobSpec`. Built-in names win.
    """

    def _entry_points(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points

        return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name not in BUILT_IN}

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        yield from sorted(self._entry_points())

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> JobSpec:
        """Raises ConfigError where the job of another package cannot be loaded."""
        if name in BUILT_IN:
            return BUILT_IN[name]
        entry = self._entry_points().get(name)
        if entry is None:
            raise KeyError(name)
        try:
            spec = JobSpec(*entry.load())
            if not issubclass(spec.config, EngineConfig):
                raise TypeError("its configuration does not inherit EngineConfig")
        except Exception as error:  # whatever the other package raises
            raise ConfigError(f"{name}: the job of {entry.value} cannot be loaded ({first_line(error)})") from error
        return spec


JOBS: Mapping[str, JobSpec] = Jobs()


def load_job(name: str) -> type[Job]:
    """The class of a job. Imports MindSpore."""
    module, _, attribute = JOBS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def job_name(config: Any) -> str:
    """The name of the job that trains a configuration.

    Raises:
        ConfigError: no job does.
    """
    for name in JOBS:
        try:
            if JOBS[name].config is type(config):
                return name
        except ConfigError:  # a broken job of another package is somebody else's
            continue
    raise ConfigError(f"no job trains a {type(config).__name__}")


def job_class(config: Any) -> type[Job]:
    """The class of the job that trains a configuration. Imports MindSpore. Raises ConfigError: no job does."""
    return load_job(job_name(config))


def job_of_config(path: Path) -> str:
    """The name of the job whose run has recorded its configuration in a file.

    The file's first line says it. Runs of version 0.1 did not write that line: theirs is the first job that has all of
    the file's settings.

    Raises:
        ConfigError: the file cannot be read, or no job that is installed here has these settings.
    """
    try:
        name = command_in(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)})") from error
    if name is not None:
        if name in list(JOBS):
            return name
        raise ConfigError(f"{path}: a run of the job {name}, which is not installed here")
    for name, spec in BUILT_IN.items():
        problems: list[str] = []
        read_yaml(str(path), spec.config, problems)
        if not problems:
            return name
    raise ConfigError(f"{path}: holds the settings of no job")


def class_of_config(path: Path) -> type | None:
    """The configuration of the job whose run has recorded it in a file; None where that is not known."""
    try:
        return JOBS[job_of_config(path)].config
    except (ConfigError, ValueError):
        return None


class Job(Protocol):
    """One kind of training: its data, its networks, its loss, its result. It has no loop of its own.

    Attributes:
        config: the settings, with what the job has chosen itself.
        columns: names of the arrays of a batch that :meth:`make_batch` makes and the loss cell takes.
        datasets: the first decides how many samples an epoch has and in what order; all are fingerprinted.
        product: the files that make the result complete, and how it is used.
        num_samples: images in a grid of samples; 0: none are made.
        num_sampling_steps: how often :meth:`sample` calls ``on_step``.
        steps_show_images: whether ``on_step`` receives images in [-1, 1] (and not latents).
    """

    config: Any
    columns: tuple[str, ...]
    datasets: Sequence[Samples]
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

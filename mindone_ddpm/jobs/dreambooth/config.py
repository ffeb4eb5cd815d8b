"""The settings of DreamBooth. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.jobs.text_to_image.config import AdapterConfig

FULL_LEARNING_RATE, ADAPTER_LEARNING_RATE = 5e-6, 5e-4  # of the published scripts
OFFSET_NOISE = 0.1  # what the published script's --offset_noise adds


@dataclass
class DreamBoothConfig(AdapterConfig):
    """Teaching Stable Diffusion a subject from a few images. Names and defaults follow the published scripts."""

    heading: ClassVar[str] = "DreamBooth"

    train_data_dir: str | None = setting(
        None, "folder of images of the subject; three to ten are usual", aliases=["instance_data_dir"]
    )
    instance_prompt: str | None = setting(
        None, "text for the subject, with a rare word as its name: 'a photo of sks dog'", resume="locked"
    )
    with_prior_preservation: bool = setting(
        False, "train on images of the subject's class too, so that the class does not drift", resume="locked"
    )
    class_data_dir: str | None = setting(None, "folder of images of the class; those that are missing are made first")
    class_prompt: str | None = setting(None, "text for the class: 'a photo of dog'", resume="locked")
    prior_loss_weight: float = setting(1.0, "of the loss on images of the class", low=0, resume="locked")
    num_class_images: int = setting(100, "images of the class", low=1, resume="locked")
    sample_batch_size: int = setting(4, "images of the class made at once", low=1)

    output_dir: str = setting(
        "dreambooth-model",
        "folder for the pipeline or adapters, samples and logs",
        private=True,
        outside_graph=True,
    )
    train_batch_size: int = setting(4, "rows per device and micro-batch", low=1, resume="report")
    num_epochs: int = setting(1, "passes over the data", aliases=["num_train_epochs"], low=1, resume="report")
    learning_rate: float = setting(
        None, "peak learning rate; by default 5e-6, with --rank 5e-4", above=0, resume="report"
    )
    num_validation_images: int = setting(4, "images for each of the prompts", low=1)

    # old command lines
    prior_generation_precision: str | None = setting(
        None, "accepted; images of the class are made in the precision of training"
    )
    pre_compute_text_embeddings: bool = setting(False, "accepted; --cache_latents keeps embeddings and latents")
    set_grads_to_none: bool = setting(False, "accepted; gradients are never kept here")
    offset_noise: bool = setting(False, "accepted: --noise_offset 0.1")

    def __post_init__(self) -> None:
        rate: Any = self.learning_rate
        if rate is None:
            self.learning_rate = FULL_LEARNING_RATE if self.rank is None else ADAPTER_LEARNING_RATE
        if self.offset_noise and not self.noise_offset:
            self.noise_offset = OFFSET_NOISE

    def own_problems(self) -> list[str]:
        problems = []
        if self.instance_prompt is None:
            problems.append("--instance_prompt: give the text for the subject, such as 'a photo of sks dog'")
        if self.streaming:
            problems.append("--streaming: a few images of a subject are not streamed; leave the flag")
        if self.with_prior_preservation:
            problems += self._problems_of_class()
        return problems

    def _problems_of_class(self) -> list[str]:
        needed = {"class_data_dir": "a folder for images of the class", "class_prompt": "the text for the class"}
        problems = [
            f"--with_prior_preservation: needs --{name}, {what}"
            for name, what in needed.items()
            if getattr(self, name) is None
        ]
        if self.class_data_dir is None:
            return problems
        folder = Path(self.class_data_dir).resolve()
        if self.train_data_dir is not None:
            subject = Path(self.train_data_dir).resolve()
            if folder.is_relative_to(subject) or subject.is_relative_to(folder):
                problems.append(
                    f"--class_data_dir {self.class_data_dir} and --instance_data_dir {self.train_data_dir}: one is in "
                    "the other; give each a folder of its own"
                )
        if Path(self.output_dir).resolve().is_relative_to(folder):
            problems.append(
                f"--output_dir {self.output_dir}: is in --class_data_dir {self.class_data_dir}, where the run's own "
                "samples would become images of the class; give a folder outside of it"
            )
        if folder.is_file():
            problems.append(f"--class_data_dir {self.class_data_dir}: is a file; give a folder")
        return problems

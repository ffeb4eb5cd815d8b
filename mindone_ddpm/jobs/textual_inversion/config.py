"""The settings of textual inversion. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import INTERPOLATIONS
from mindone_ddpm.jobs.text_to_image.config import FineTuneConfig

PROPERTIES = ("object", "style")


@dataclass
class TextualInversionConfig(FineTuneConfig):
    """Learning a new word of Stable Diffusion from a few images. Names and defaults follow the published script."""

    heading: ClassVar[str] = "textual inversion"

    placeholder_token: str | None = setting(None, "the new word, such as '<cat-toy>'", resume="locked")
    initializer_token: str | None = setting(None, "a word that comes near to it, of one token", resume="locked")
    learnable_property: str = setting(
        "object", "what the word stands for; decides the captions", choices=PROPERTIES, resume="locked"
    )
    num_vectors: int = setting(1, "vectors of the word; more describe more", low=1, high=32, resume="locked")
    repeats: int = setting(100, "how often an epoch goes through the images", low=1, resume="locked")

    train_data_dir: str | None = setting(None, "folder of images; three to ten are usual")
    output_dir: str = setting(
        "text-inversion-model", "folder for the embedding, samples and logs", private=True, outside_graph=True
    )
    resize_mode: str = setting(
        "squash",
        "crop: shorter side, then crop; squash: to a square, whatever the proportions",
        choices=["squash", "crop"],
        resume="locked",
    )
    image_interpolation_mode: str = setting(
        "bicubic",
        "how images are resized; all but nearest are antialiased",
        choices=INTERPOLATIONS,
        resume="locked",
    )
    random_flip: bool | None = setting(True, "flip half the images left to right", resume="locked")
    num_validation_images: int = setting(4, "images for each of the prompts", low=1)

    # old command lines
    save_steps: int | None = setting(None, "accepted; --checkpointing_steps keeps what has been learned", low=1)
    save_as_full_pipeline: bool = setting(False, "accepted; the command fuse writes a whole pipeline")
    no_safe_serialization: bool = setting(False, "accepted; what is saved is always safetensors")

    def own_problems(self) -> list[str]:
        problems = []
        for name, example in (("placeholder_token", "'<cat-toy>'"), ("initializer_token", "toy")):
            value = getattr(self, name)
            if value is None:
                problems.append(f"--{name}: give a word, such as {example}")
            elif len(value.split()) != 1:
                problems.append(f"--{name} {value!r}: must be one word, without spaces")
        if self.streaming:
            problems.append("--streaming: a few images are not streamed; leave the flag")
        if self.snapshot_steps:
            problems.append("--snapshot_steps: snapshots are of whole networks, not of a word")
        return problems

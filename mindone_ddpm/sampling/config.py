"""Settings of sampling, inpainting and interpolation. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import (
    CLIPPING_SAMPLERS,
    DEVICES,
    JIT_LEVEL_HELP,
    JIT_LEVELS,
    MODES,
    SAMPLERS,
    TIMESTEP_SPACINGS,
)
from mindone_ddpm.config.hub import HubChoice


@dataclass
class SamplingBase(HubChoice):
    """What every kind of sampling from a saved pipeline has."""

    heading: ClassVar[str] = "model and sampling"

    model: str = setting("", "folder of a saved pipeline, or its name on the hub")
    output_dir: str = setting("samples", "folder for the images and the grid")
    batch_size: int = setting(16, "images denoised at once; changes them by rounding at most", low=1)
    num_inference_steps: int | None = setting(
        None, "denoising steps; by default 1000 with ddpm, 50 with the others, 25 where no sampler is named", low=1
    )
    class_label: str | None = setting(
        None, "of a class-conditional model: class names or numbers, with commas between; by default all in turn"
    )
    guidance_scale: float | None = setting(
        None, "1: as trained; more: closer to the class or the prompt; by default 1 for classes, 7.5 for text", low=0
    )
    seed: int = setting(0, "image i depends on (seed, i) only", low=0, high=2**32 - 1)
    device: str = setting("auto", "auto takes the first that is there", choices=DEVICES)
    mode: str = setting("graph", "graph compiles the denoiser; pynative runs it operator by operator", choices=MODES)
    jit_level: str = setting("auto", JIT_LEVEL_HELP, choices=JIT_LEVELS)


@dataclass
class ImagesBase(SamplingBase):
    """What every kind of sampling into a folder of images has."""

    heading: ClassVar[str] = "image files"

    overwrite_output_dir: bool = setting(False, "write into an output_dir that already holds images")
    bit_depth: int = setting(8, "bits a channel in the PNG files, 8 or 16", low=8, high=16)

    def own_problems(self) -> list[str]:
        problems = []
        if not self.model:
            problems.append("--model: give the folder of a saved pipeline")
        if self.bit_depth not in (8, 16):
            problems.append(f"--bit_depth {self.bit_depth}: must be 8 or 16")
        return problems


@dataclass
class SampleConfig(ImagesBase):
    """Sampling from a saved pipeline."""

    heading: ClassVar[str] = "sampling"

    num_images: int = setting(16, "number of images", low=1)
    scheduler: str | None = setting(
        None,
        "sampler; by default the one that needs the fewest steps, for text the one the pipeline was saved with",
        choices=SAMPLERS,
    )
    eta: float | None = setting(None, "with ddim: 0 no noise between the steps, 1 as much as ddpm", low=0, high=1)
    clip_sample: bool | None = setting(
        None,
        "with ddpm, ddim, dpmsolver++ and unipc: clip the predicted image; as trained by default",
    )
    timestep_spacing: str | None = setting(
        None, "how the steps lie among the noise levels; as trained by default", choices=TIMESTEP_SPACINGS
    )
    dtype: str = setting(
        "float32",
        "compute precision of the UNet; bf16 on a CPU takes one with instructions for it",
        choices=["float32", "fp16", "bf16"],
    )
    save_trajectory: str = setting(
        "none",
        "also save the denoising of the first eight images, as a strip or a GIF",
        choices=["none", "strip", "gif"],
    )
    prompt: list[str] | None = setting(None, "of a text-to-image model: one or several texts")
    prompts_file: str | None = setting(None, "file with a text on each line, instead of --prompt")
    negative_prompt: str | None = setting(None, "what the images should not show")
    height: int | None = setting(None, "of a text-to-image model, in pixels; by default as trained", low=8)
    width: int | None = setting(None, "like height", low=8)
    lora: list[str] | None = setting(
        None, "folders or files of LoRA adapters to put on the model, each with its weight behind a colon: A:0.8 B:0.5"
    )
    embedding: list[str] | None = setting(None, "folders or files of words learned by textual inversion")

    def own_problems(self) -> list[str]:
        problems = []
        if self.eta is not None and self.scheduler != "ddim":
            problems.append("--eta: is a setting of --scheduler ddim")
        if self.clip_sample is not None and self.scheduler not in (None, *CLIPPING_SAMPLERS):
            problems.append("--clip_sample: is a setting of --scheduler ddpm, ddim, dpmsolver++ and unipc")
        if self.prompt is not None and self.prompts_file is not None:
            problems.append("--prompt and --prompts_file: give only one of them")
        return problems


@dataclass
class FuseConfig(HubChoice):
    """Writing a pipeline with adapters and learned words in it."""

    heading: ClassVar[str] = "fusing"

    model: str = setting("", "folder of a saved text-to-image pipeline, or its name on the hub")
    lora: list[str] | None = setting(
        None, "folders or files of LoRA adapters, each with its weight behind a colon: A:0.8 B:0.5"
    )
    embedding: list[str] | None = setting(None, "folders or files of words learned by textual inversion")
    output_dir: str = setting("fused", "folder for the pipeline")
    device: str = setting("auto", "auto takes the first that is there", choices=DEVICES)

    def own_problems(self) -> list[str]:
        problems = []
        if not self.model:
            problems.append("--model: give the folder of a saved pipeline")
        if self.lora is None and self.embedding is None:
            problems.append("--lora or --embedding: give what is to be put into the pipeline")
        folder = Path(self.output_dir)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            problems.append(f"--output_dir {self.output_dir}: is there already; give a new folder")
        return problems


@dataclass
class InpaintConfig(ImagesBase):
    """Filling in a part of images by RePaint (Lugmayr et al. 2022)."""

    heading: ClassVar[str] = "inpainting"

    output_dir: str = setting("inpainted", "folder for the images")
    image: str = setting("", "image, or folder of images, to complete")
    mask: str = setting("", "image: white is kept, black is made anew")
    num_images: int = setting(4, "versions of each image", low=1)
    num_inference_steps: int | None = setting(250, "denoising steps, without those that are done again", low=1)
    jump_length: int = setting(10, "steps of each jump back", low=1)
    jump_n_sample: int = setting(10, "times that each stretch is gone through", low=1)

    def own_problems(self) -> list[str]:
        problems = []
        problems += [f"--{name}: give an image" for name in ("image", "mask") if not getattr(self, name)]
        if self.num_inference_steps is not None and self.jump_length >= self.num_inference_steps:
            problems.append(f"--jump_length {self.jump_length}: must be below --num_inference_steps")
        return problems


@dataclass
class InterpolateConfig(ImagesBase):
    """Images between two images (Ho et al. 2020, section 4.4)."""

    heading: ClassVar[str] = "interpolation"

    output_dir: str = setting("interpolated", "folder for the images")
    image_a: str = setting("", "the first image")
    image_b: str = setting("", "the last image")
    num_images: int = setting(9, "images in the row, with both ends", low=2)
    strength: float = setting(
        0.5, "how far into the noise, from 0 to 1: little keeps the images, much invents", above=0, high=1
    )
    scheduler: str | None = setting(
        None, "sampler; by default ddim, for flow matching euler", choices=["ddpm", "ddim", "euler"]
    )

    def own_problems(self) -> list[str]:
        problems = []
        problems += [f"--{name}: give an image" for name in ("image_a", "image_b") if not getattr(self, name)]
        return problems

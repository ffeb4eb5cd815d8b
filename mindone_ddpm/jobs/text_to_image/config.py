"""The settings of every fine-tuning of Stable Diffusion, and those of text to image. Free of MindSpore."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import LR_SCHEDULERS, MOST_PIXELS, EngineConfig
from mindone_ddpm.config.values import looks_like_hub_name
from mindone_ddpm.objectives.config import TimestepConfig


@dataclass
class FineTuneConfig(TimestepConfig, EngineConfig):
    """What every fine-tuning of Stable Diffusion has. Names and defaults follow the published scripts."""

    heading: ClassVar[str] = "fine-tuning"

    image_size: int = setting(
        512, "side of the square images in pixels", aliases=["resolution"], low=8, high=MOST_PIXELS, resume="locked"
    )
    resize_mode: str = setting(
        "crop",
        "crop: shorter side, then crop; squash: to a square, whatever the proportions",
        choices=["squash", "crop"],
        resume="locked",
    )
    aspect_buckets: bool = setting(
        False,
        "keep the images' proportions: each is trained on in the nearest of a few sizes with the area of --resolution",
        resume="locked",
    )
    bucket_step: int = setting(64, "the sides of those sizes are multiples of it, in pixels", low=8, resume="locked")
    max_buckets: int = setting(9, "number of those sizes, at most; each is compiled once", low=1, resume="locked")
    max_aspect_ratio: float = setting(
        2.0, "of those sizes: longer side / shorter side, at most; longer images are cropped", low=1, resume="locked"
    )
    random_flip: bool | None = setting(False, "flip half the images left to right", resume="locked")
    output_dir: str = setting(
        "sd-model-finetuned", "folder for the pipeline, samples and logs", private=True, outside_graph=True
    )
    num_epochs: int = setting(100, "passes over the data", aliases=["num_train_epochs"], low=1, resume="report")
    lr_scheduler: str = setting("constant", "schedule, by optimiser step", choices=LR_SCHEDULERS, resume="report")
    adam_beta1: float = setting(0.9, "decay of the first moment", low=0, resume="locked")
    adam_weight_decay: float = setting(1e-2, "decoupled weight decay", low=0, resume="locked")
    save_image_epochs: int = setting(
        5,
        "epochs between images for the validation prompts; 0: never",
        aliases=["save_images_epochs", "validation_epochs"],
        low=0,
    )

    # model
    pretrained_model_name_or_path: str | None = setting(
        None, "Stable Diffusion pipeline to fine-tune: a folder, or a name on the hub"
    )
    pretrained_vae_model_name_or_path: str | None = setting(
        None, "another autoencoder in place of the pipeline's own: a folder, or a name on the hub"
    )
    revision: str | None = setting(None, "of the pipeline on the hub: branch, tag or commit")
    non_ema_revision: str | None = setting(None, "accepted for old command lines; give --variant non_ema instead")
    variant: str | None = setting(None, "of the pipeline's weight files, such as fp16 or non_ema")
    prediction_type: str | None = setting(
        None,
        "what the UNet predicts; by default what it was trained for",
        choices=["epsilon", "v_prediction"],
        resume="locked",
    )

    caption_dropout: float = setting(
        0.0, "share of captions dropped in training, for guidance; 0.1 is usual", low=0, high=1, resume="locked"
    )
    cache_latents: bool = setting(
        False,
        "run the autoencoder and the frozen text encoder once over the data and cache their outputs on disk",
        resume="locked",
    )

    # evaluation
    validation_prompts: list[str] | None = setting(
        None, "texts for which images are made during training", aliases=["validation_prompt"]
    )
    num_validation_images: int = setting(1, "images for each of them", low=1)
    num_validation_inference_steps: int = setting(20, "denoising steps of those images", low=1)
    guidance_scale: float = setting(7.5, "of those images: 1 is none", low=0)

    # old command lines
    use_8bit_adam: bool = setting(False, "not there in MindSpore; --optimizer adafactor or lion keep less state")
    allow_tf32: bool = setting(False, "accepted; the devices that MindSpore drives have no such switch")
    enable_mindspore_data_sink: bool = setting(False, "accepted; batches are made ahead without it")

    def own_problems(self) -> list[str]:
        problems = []
        name = self.pretrained_model_name_or_path
        if name is None:
            problems.append("--pretrained_model_name_or_path: give the Stable Diffusion pipeline to fine-tune")
        elif not os.path.isdir(name) and not looks_like_hub_name(name):
            problems.append(f"--pretrained_model_name_or_path {name}: no such folder")
        if self.use_8bit_adam:
            problems.append(
                "--use_8bit_adam: MindSpore has no 8-bit Adam; --optimizer adafactor or lion keep less state too"
            )
        if self.aspect_buckets and self.streaming:
            problems.append("--aspect_buckets and --streaming: a stream's sizes are not known; give only one of them")
        if self.aspect_buckets and self.resize_mode == "squash":
            problems.append("--aspect_buckets: keeps the proportions, which --resize_mode squash does not")
        if self.aspect_buckets and self.image_size < self.bucket_step:
            problems.append(f"--bucket_step {self.bucket_step}: must be at most --resolution {self.image_size}")
        cropped_at_random = self.resize_mode == "crop" and not self.center_crop
        if self.cache_latents and cropped_at_random:
            problems.append("--cache_latents: random crops cannot be kept; give --center_crop, or --resize_mode squash")
        if self.cache_latents and self.streaming:
            problems.append("--cache_latents and --streaming: what is streamed is not kept; give only one of them")
        return problems


@dataclass
class AdapterConfig(FineTuneConfig):
    """Which weights train: those of the networks, or low-rank adapters on them."""

    heading: ClassVar[str] = "adapters (LoRA)"

    rank: int | None = setting(
        None, "train low-rank adapters (LoRA) of this rank instead of the networks' weights", low=1, resume="locked"
    )
    lora_alpha: float | None = setting(
        None,
        "scale of the adapters times rank: they are multiplied by alpha / rank; by default by 1",
        above=0,
        resume="locked",
    )
    lora_target_modules: str = setting(
        "to_k,to_q,to_v,to_out.0", "layers of the UNet that get adapters, with commas between", resume="locked"
    )
    train_text_encoder: bool = setting(
        False, "train the text encoder too: its weights, or with --rank adapters on its attention", resume="locked"
    )

    def own_problems(self) -> list[str]:
        problems = []
        if self.snapshot_steps and (self.rank is not None or self.train_text_encoder):
            problems.append("--snapshot_steps: snapshots are of a whole UNet alone, without --rank and other networks")
        if self.lora_alpha is not None and self.rank is None:
            problems.append("--lora_alpha: has a meaning with --rank only")
        return problems


@dataclass
class TextToImageConfig(AdapterConfig):
    """Fine-tuning Stable Diffusion on captioned images."""

    heading: ClassVar[str] = "text to image"

    caption_column: str | None = setting(None, "column of captions: text, or lists of texts; found when not given")
    instance_prompt: str | None = setting(
        None, "one caption for all images, where they have none of their own", resume="locked"
    )
    trigger_word: str | None = setting(None, "word to put in front of every caption, before a comma", resume="locked")

    def own_problems(self) -> list[str]:
        if self.instance_prompt is not None and self.caption_column is not None:
            return ["--instance_prompt and --caption_column: give only one of them"]
        return []


@dataclass
class TextToImageXLConfig(TextToImageConfig):
    """Fine-tuning Stable Diffusion XL on captioned images."""

    heading: ClassVar[str] = "text to image, XL"

    image_size: int = setting(
        1024, "side of the square images in pixels", aliases=["resolution"], low=8, high=MOST_PIXELS, resume="locked"
    )
    output_dir: str = setting(
        "sdxl-model-finetuned", "folder for the pipeline, samples and logs", private=True, outside_graph=True
    )
    caption_dropout: float = setting(
        0.0,
        "share of captions dropped in training, for guidance; 0.1 is usual",
        aliases=["proportion_empty_prompts"],
        low=0,
        high=1,
        resume="locked",
    )
    num_validation_images: int = setting(4, "images for each of the prompts", low=1)
    save_image_epochs: int = setting(
        1,
        "epochs between images for the validation prompts; 0: never",
        aliases=["save_images_epochs", "validation_epochs"],
        low=0,
    )

    # old command lines
    enable_npu_flash_attention: bool = setting(
        False, "accepted: --enable_xformers_memory_efficient_attention, which is mindone's fused attention on Ascend"
    )

    def __post_init__(self) -> None:
        if self.enable_npu_flash_attention:
            self.enable_xformers_memory_efficient_attention = True

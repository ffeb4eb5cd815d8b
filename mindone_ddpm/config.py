"""Configuration: dataclasses that become the command line, a YAML file and the run's own record.

Never imports MindSpore, so that ``--help`` answers at once. A field's ``metadata`` holds its help text, the other
names by which the published scripts know it, and what it may be; :func:`validate` reports every problem together.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BUILT_IN_DATASETS = ("digits",)
DIGITS_IMAGE_SIZE = 8


class Problem(Exception):
    """What a user can mend: the message is for them, a line for each thing that is wrong."""

    exit_status = 1
    prefix = "error: "


class ConfigError(Problem):
    """One or more settings are wrong. ``problems`` holds one line for each."""

    exit_status = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def first_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# --- UNet presets ------------------------------------------------------------------------------------------------

# Ho et al. 2020, appendix B.
_OF_THE_PAPER: dict[str, Any] = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
# 113.7 M parameters, attention at a sixteenth of the size.
_LARGE: dict[str, Any] = {
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
}
UNET_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {  # 0.7 M parameters; images from 8x8
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
    },
    "small": {  # 6.5 M parameters with three channels; images from 16x16
        "block_out_channels": (64, 128, 128),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "ddpm-cifar10": {  # 35.7 M parameters; 32x32, attention at 16x16, dropout 0.1
        **_OF_THE_PAPER,
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "dropout": 0.1,
    },
    "tutorial-128": _LARGE,  # made for 128x128
    "ddpm-256": {**_OF_THE_PAPER, **_LARGE},  # made for 256x256, without dropout
}
# Names by which a preset is also known.
PRESET_ALIASES = {"tutorial": "tutorial-128"}


def preset_for(image_size: int) -> str:
    """The preset that fits an image size in pixels: tiny below 16, small to 64, tutorial-128 above."""
    if image_size < 16 or image_size % 4:
        return "tiny"
    return "small" if image_size <= 64 else "tutorial-128"


def size_divisor(block_out_channels: Sequence[int]) -> int:
    """Every block but the last halves the image: sides must be divisible by 2 to that number."""
    return 2 ** (len(block_out_channels) - 1)


# --- fields ------------------------------------------------------------------------------------------------------


def setting(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    several: bool = False,
    secret: bool = False,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field with what the command line and the validation need to know.

    ``low`` and ``high`` are the smallest and the largest value allowed, ``above`` a value that must be exceeded.
    ``several``: more than one of the choices may be given, with commas between them. ``secret``: never written down.
    """
    metadata = {"help": help, "aliases": tuple(aliases), "choices": tuple(choices), "several": several}
    return field(default=default, metadata={**metadata, "secret": secret, "low": low, "high": high, "above": above})


LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "piecewise_constant",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
LOSS_TYPES = ("mse", "l1", "huber")
SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "euler", "euler_ancestral", "heun", "unipc", "pndm")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
METRICS = ("fid", "kid", "precision_recall", "inception_score")
# What they give, and whether more is better.
FIGURES = {"fid": False, "kid": False, "precision": True, "recall": True, "inception_score": True}
TRACKERS = ("none", "tensorboard", "wandb", "csv", "jsonl")
OPTIMIZERS = ("adamw", "adamw_no_correction", "sgd", "lion", "adafactor")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
DEVICES = ("auto", "Ascend", "GPU", "CPU")
MODES = ("graph", "pynative")


@dataclass
class EngineConfig:
    """What every kind of training has: data, objective, optimiser, output, machine."""

    # data
    dataset_name: str | None = setting(
        None, "'digits' (built in), a data set's name on the Hugging Face Hub, or a folder written by save_to_disk"
    )
    dataset_config_name: str | None = setting(None, "configuration of the data set, where it has several")
    dataset_split: str = setting("train", "split to train on")
    train_data_dir: str | None = setting(
        None, "folder of images (nested or flat, with or without metadata.jsonl), or of parquet files"
    )
    image_column: str | None = setting(None, "column that holds the images; found by its type when not given")
    max_train_samples: int | None = setting(
        None, "use only so many images, the first; with streaming, how many an epoch has", low=1
    )
    streaming: bool = setting(False, "read the data set as a stream, for one that is larger than the disk")
    streaming_buffer_size: int = setting(1000, "images among which a stream is shuffled; 1: its own order", low=1)
    cache_dir: str | None = setting(None, "where Hugging Face data sets are cached")
    image_size: int = setting(128, "side of the square images in pixels", aliases=["resolution"], low=2)
    resize_mode: str = setting(
        "squash", "squash: to a square, as in the tutorial; crop: shorter side, then crop", choices=["squash", "crop"]
    )
    image_interpolation_mode: str = setting(
        "bilinear", "how images are resized; all but nearest are antialiased", choices=INTERPOLATIONS
    )
    center_crop: bool = setting(False, "with resize_mode crop (which this implies): crop in the middle, not at random")
    random_flip: bool | None = setting(None, "flip half the images left to right; on, but for the built-in digits")
    random_vertical_flip: bool = setting(False, "flip half the images upside down")
    dataloader_drop_last: bool = setting(
        False, "end an epoch before a batch that is not full; a short one makes a noisy update, where data are few"
    )
    dataloader_num_workers: int = setting(
        0, "processes that decode images, at most one a core; 0: a thread, enough where the images fit in memory", low=0
    )
    cache_images_mib: int = setting(
        1024, "keep the resized images in memory if they take at most this many MiB; 0: never", low=0
    )

    # objective
    loss_type: str = setting("mse", "distance between prediction and target", choices=LOSS_TYPES)
    huber_c: float = setting(0.1, "with loss_type huber: below this it is quadratic, above linear", above=0)
    snr_gamma: float | None = setting(None, "weigh timesteps by Min-SNR with this gamma; 5 is recommended", above=0)
    noise_offset: float = setting(0.0, "add noise of this scale that is the same over a channel; 0.1 helps", low=0)
    input_perturbation: float = setting(
        0.0, "add noise of this scale to the input's noise, but not to the target; 0.1 is recommended", low=0
    )

    # training
    output_dir: str = setting("model", "folder for the pipeline, samples and logs")
    overwrite_output_dir: bool = setting(False, "allow an output_dir that already holds a run")
    train_batch_size: int = setting(16, "images per device and micro-batch", low=1)
    num_epochs: int = setting(50, "passes over the data", aliases=["num_train_epochs"], low=1)
    max_train_steps: int | None = setting(None, "optimiser steps; decides over num_epochs when given", low=1)
    gradient_accumulation_steps: int = setting(1, "micro-batches per optimiser step", low=1)
    learning_rate: float = setting(1e-4, "peak learning rate", above=0)
    scale_lr: bool = setting(False, "multiply the learning rate by ranks x batch x accumulation")
    lr_scheduler: str = setting("cosine", "schedule, by optimiser step", choices=LR_SCHEDULERS)
    lr_warmup_steps: int = setting(500, "steps in which the learning rate rises from 0", low=0)
    lr_num_cycles: float | None = setting(
        None, "cosine: waves, 0.5 by default; cosine_with_restarts: restarts, 1 by default", above=0
    )
    lr_power: float = setting(1.0, "power of the polynomial schedule", above=0)
    lr_step_rules: str | None = setting(
        None, "piecewise_constant: factor:until_step pairs and a last factor, such as 1:1000,0.1:2000,0.01"
    )
    optimizer: str = setting(
        "adamw",
        "adamw: with bias correction; adamw_no_correction: the tutorial's AdamWeightDecay; sgd: with momentum "
        "adam_beta1; lion; adafactor",
        choices=OPTIMIZERS,
    )
    adam_beta1: float = setting(0.95, "decay of the first moment", low=0)
    adam_beta2: float = setting(0.999, "decay of the second moment", low=0)
    adam_weight_decay: float = setting(1e-6, "decoupled weight decay", low=0)
    adam_epsilon: float = setting(1e-8, "added to the denominator", above=0)
    max_grad_norm: float = setting(1.0, "clip the global gradient norm to this; 0: do not clip", low=0)
    mixed_precision: str = setting(
        "auto",
        "compute precision; auto: fp16 on Ascend and GPU, no (float32) on CPU",
        choices=["auto", "no", "fp16", "bf16"],
    )
    loss_scaling: str = setting(
        "static", "dynamic halves the scale at an overflow and doubles it now and then", choices=["static", "dynamic"]
    )
    loss_scale: float | None = setting(None, "the loss scale, or the first one; 65536 with fp16, else 1", above=0)
    max_consecutive_skips: int = setting(50, "updates skipped in a row, for overflow, before the run gives up", low=1)
    gradient_checkpointing: bool = setting(False, "save memory by computing activations again going backward")
    enable_xformers_memory_efficient_attention: bool = setting(
        False, "on Ascend: mindone's fused attention; elsewhere there is none, and attention stays as it is"
    )
    use_ema: bool = setting(False, "keep a moving average of the weights; samples and the pipeline are made with it")
    ema_inv_gamma: float = setting(1.0, "the decay after step n is 1 - (1 + (n-1)/inv_gamma)^-power", above=0)
    ema_power: float = setting(0.75, "see ema_inv_gamma", above=0)
    ema_max_decay: float = setting(0.9999, "the decay's upper bound", low=0)
    ema_decay: float | None = setting(None, "a fixed decay instead", low=0)
    seed: int = setting(0, "decides initial weights, data order, flips, noise and samples", low=0, high=2**32 - 1)

    # output
    save_image_epochs: int = setting(
        10, "epochs between grids of samples; 0: never", aliases=["save_images_epochs"], low=0
    )
    save_model_epochs: int = setting(30, "epochs between saved pipelines (and one at the end)", low=0)
    save_dtype: str = setting("float32", "type of the saved pipeline's weights", choices=["float32", "fp16", "bf16"])
    checkpointing_steps: int = setting(500, "optimiser steps between checkpoints; 0: none", low=0)
    checkpoints_total_limit: int | None = setting(2, "keep this many checkpoints, the newest; none: all", low=1)
    resume_from_checkpoint: str | None = setting(
        None, "latest; a checkpoint's folder; or auto: the latest if there is one, else start"
    )
    accept_changes: bool = setting(False, "resume although settings that decide the result have changed")
    on_checkpoint_error: str = setting(
        "continue", "when a checkpoint cannot be written: go on with the old one, or stop", choices=["continue", "stop"]
    )
    logging_dir: str = setting("logs", "folder for the trackers, inside output_dir")
    logging_steps: int = setting(10, "steps between fetches of the loss from the device", low=1)
    report_to: str = setting(
        "tensorboard", "trackers, with commas between", aliases=["logger"], choices=TRACKERS, several=True
    )

    push_to_hub: bool = setting(False, "upload the pipeline to the Hugging Face Hub whenever it is saved")
    hub_model_id: str | None = setting(
        None, "its repository there; by default output_dir's name, of the logged-in user"
    )
    hub_private_repo: bool = setting(False, "make that repository a private one")
    hub_token: str | None = setting(None, "token for the Hub; better given by HF_TOKEN or a login", secret=True)
    hub_license: str | None = setting(None, "licence named in the model card, such as apache-2.0")

    # machine
    distributed: bool = setting(False, "accepted for old command lines: a launch by msrun is noticed by itself")
    local_rank: int | None = setting(None, "accepted for old command lines, like distributed")
    step_timeout_s: float = setting(
        1800.0, "with several ranks: one that takes longer for a step ends the job", above=0
    )
    device: str = setting("auto", "auto takes the first that is there", choices=DEVICES)
    mode: str = setting("graph", "graph compiles the step; pynative runs it operator by operator", choices=MODES)
    deterministic: bool = setting(
        False, "same bits in every run on an NPU or GPU too, at some cost; a processor's are the same anyhow"
    )
    max_device_memory: int | None = setting(None, "use at most so many GiB of the device's memory", low=1)
    compile_cache: str = setting(
        "auto",
        "keep the compiled step for the next start of the same run; auto: on a processor, where this was tried",
        choices=["auto", "on", "off"],
    )


@dataclass
class TrainingConfig(EngineConfig):
    """Training a UNet on images. Names and defaults follow the published tutorial and scripts."""

    output_dir: str = setting("ddpm-butterflies-128", "folder for the pipeline, samples and logs")

    # images
    channels: int = setting(3, "1 grey, 3 RGB, 4 RGBA", low=1)
    preserve_input_precision: bool = setting(
        False, "keep 16-bit and float images at their precision instead of rounding them to 8 bits"
    )

    # model
    preset: str | None = setting(
        None,
        "size of the UNet; by default the one that fits the image size",
        choices=[*UNET_PRESETS, *PRESET_ALIASES],
    )
    model_config_name_or_path: str | None = setting(
        None, "config.json of a UNet2DModel, or a folder or a Hub name that has one, instead of a preset"
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "pipeline (a folder, or a name on the Hub) to go on from: its UNet and its noise levels"
    )
    ddpm_num_steps: int = setting(1000, "noise levels", low=2)
    ddpm_beta_schedule: str = setting("linear", "how the noise grows", choices=BETA_SCHEDULES)
    rescale_betas_zero_snr: bool = setting(
        False, "shift the noise levels so that the last is pure noise; not with prediction_type epsilon"
    )
    prediction_type: str = setting("epsilon", "what the UNet predicts", choices=PREDICTION_TYPES)
    loss_weighting: str = setting(
        "auto",
        "of timesteps, without snr_gamma; auto: snr for prediction_type sample, as the published scripts have it, "
        "else uniform",
        choices=["auto", "uniform", "snr"],
    )
    class_conditional: bool = setting(False, "learn the classes too, so that samples of a class can be asked for")
    label_column: str | None = setting(None, "column that holds the classes; found by its type when not given")
    label_dropout: float = setting(0.1, "share of labels left out, which guidance at sampling needs", low=0, high=1)

    # evaluation
    eval_batch_size: int = setting(16, "images in a grid of samples", low=1)
    ddpm_num_inference_steps: int = setting(1000, "denoising steps for the grids", low=1)
    guidance_scale: float = setting(1.0, "for the grids of a class-conditional model; see sampling", low=0)
    eval_metrics: str | None = setting(
        None, "figures of quality on the way, with commas between", choices=METRICS, several=True
    )
    eval_metrics_steps: int = setting(0, "every so many steps, and at the end; 0: at the end only", low=0)
    eval_num_samples: int = setting(1000, "pictures made for them", low=2)
    eval_num_inference_steps: int = setting(50, "denoising steps (DDIM) of those pictures", low=1)
    eval_features: str = setting(
        "inception", "network whose features are compared; digits: small, built in", choices=["inception", "digits"]
    )
    inception_weights: str | None = setting(
        None, "the FID literature's Inception-v3: a safetensors file, or on the Hub"
    )
    eval_resize: str = setting(
        "pytorch-fid", "to the network's 299 pixels; clean: antialiased, as clean-fid", choices=["pytorch-fid", "clean"]
    )
    validation_split: float = setting(
        0.0, "share of the images that is not trained on, and whose loss is measured instead", low=0, high=0.9
    )
    validation_data_dir: str | None = setting(None, "folder of images whose loss is measured instead")
    validation_loss_steps: int = setting(0, "measure it every so many steps, and at the end; 0: at the end only", low=0)
    validation_num_images: int = setting(100, "measure it on at most so many images", low=1)
    save_best: str | None = setting(
        None, "keep the pipeline with the best of this figure in best/", choices=list(FIGURES)
    )


# What the published train_unconditional.py scripts have where the tutorial has something else.
PUBLISHED_SCRIPT_DEFAULTS: dict[str, Any] = {
    "image_size": 64,
    "output_dir": "ddpm-model-64",
    "num_epochs": 100,
    "save_model_epochs": 10,
    "resize_mode": "crop",
    "random_flip": False,
    "mixed_precision": "no",
    "checkpoints_total_limit": None,
    "preset": "tutorial-128",
}


@dataclass
class TextToImageConfig(EngineConfig):
    """Fine-tuning Stable Diffusion's UNet on captioned images. Names and defaults follow the published scripts."""

    image_size: int = setting(512, "side of the square images in pixels", aliases=["resolution"], low=8)
    resize_mode: str = setting(
        "crop",
        "crop: shorter side, then crop; squash: to a square, whatever the proportions",
        choices=["squash", "crop"],
    )
    random_flip: bool | None = setting(False, "flip half the images left to right")
    output_dir: str = setting("sd-model-finetuned", "folder for the pipeline, samples and logs")
    num_epochs: int = setting(100, "passes over the data", aliases=["num_train_epochs"], low=1)
    lr_scheduler: str = setting("constant", "schedule, by optimiser step", choices=LR_SCHEDULERS)
    adam_beta1: float = setting(0.9, "decay of the first moment", low=0)
    adam_weight_decay: float = setting(1e-2, "decoupled weight decay", low=0)
    save_image_epochs: int = setting(
        5,
        "epochs between pictures for the validation prompts; 0: never",
        aliases=["save_images_epochs", "validation_epochs"],
        low=0,
    )

    # model
    pretrained_model_name_or_path: str | None = setting(
        None, "Stable Diffusion pipeline to fine-tune: a folder, or a name on the Hub"
    )
    revision: str | None = setting(None, "of the pipeline on the Hub: branch, tag or commit")
    non_ema_revision: str | None = setting(None, "accepted for old command lines; give --variant non_ema instead")
    variant: str | None = setting(None, "of the pipeline's weight files, such as fp16 or non_ema")
    prediction_type: str | None = setting(
        None, "what the UNet predicts; by default what it was trained for", choices=["epsilon", "v_prediction"]
    )
    rank: int | None = setting(None, "train low-rank adapters (LoRA) of this rank, and leave the UNet as it is", low=1)
    lora_alpha: float | None = setting(None, "the adapters count alpha / rank; by default 1", above=0)
    lora_target_modules: str = setting("to_k,to_q,to_v,to_out.0", "layers that get adapters, with commas between")

    # captions
    caption_column: str | None = setting(None, "column of captions: text, or lists of texts; found when not given")
    caption_dropout: float = setting(0.0, "share of captions left out, for guidance; 0.1 is usual", low=0, high=1)
    cache_latents: bool = setting(
        False, "run the autoencoder and the text encoder once over the data and keep what they answer on disk"
    )

    # evaluation
    validation_prompts: list[str] | None = setting(None, "texts for which pictures are made on the way")
    num_validation_inference_steps: int = setting(20, "denoising steps of those pictures", low=1)
    guidance_scale: float = setting(7.5, "of those pictures: 1 is none", low=0)

    # old command lines
    use_8bit_adam: bool = setting(False, "not there in MindSpore; --optimizer adafactor or lion keep less state")
    allow_tf32: bool = setting(False, "accepted; the devices that MindSpore drives have no such switch")
    enable_mindspore_data_sink: bool = setting(False, "accepted; batches are made ahead without it")


@dataclass
class SamplingBase:
    """What every kind of sampling from a saved pipeline has."""

    model: str = setting("", "folder of a saved pipeline, or its name on the Hub")
    output_dir: str = setting("samples", "folder for the pictures and the grid")
    batch_size: int = setting(16, "pictures denoised at once; does not change them", low=1)
    num_inference_steps: int | None = setting(
        None, "denoising steps; by default 1000 with ddpm, 50 with the others", low=1
    )
    class_label: str | None = setting(
        None, "of a class-conditional model: class names or numbers, with commas between; by default all in turn"
    )
    guidance_scale: float | None = setting(
        None, "1 as learnt, more pushes towards the class or the prompt; by default 1 for classes, 7.5 for text", low=0
    )
    seed: int = setting(0, "picture i depends on (seed, i) only", low=0, high=2**32 - 1)
    device: str = setting("auto", "auto takes the first that is there", choices=DEVICES)
    mode: str = setting("graph", "graph compiles the denoiser; pynative runs it operator by operator", choices=MODES)


@dataclass
class PicturesBase(SamplingBase):
    """What every kind of sampling into a folder of pictures has."""

    overwrite_output_dir: bool = setting(False, "write into an output_dir that already holds pictures")
    bit_depth: int = setting(8, "bits a channel in the PNG files, 8 or 16", low=8, high=16)


@dataclass
class SampleConfig(PicturesBase):
    """Sampling from a saved pipeline."""

    num_images: int = setting(16, "number of pictures", low=1)
    scheduler: str | None = setting(
        None, "sampler; by default ddpm, for text the one the pipeline was saved with", choices=SAMPLERS
    )
    eta: float | None = setting(None, "with ddim: 0 no noise on the way, 1 as much as ddpm", low=0, high=1)
    clip_sample: bool | None = setting(None, "with ddpm and ddim: clip the predicted image; as trained by default")
    timestep_spacing: str | None = setting(
        None, "how the steps lie among the noise levels; as trained by default", choices=TIMESTEP_SPACINGS
    )
    save_trajectory: str = setting(
        "none", "also how the first eight pictures come about, as a strip or a GIF", choices=["none", "strip", "gif"]
    )
    prompt: list[str] | None = setting(None, "of a text-to-image model: one or several texts")
    prompts_file: str | None = setting(None, "file with a text on each line, instead of --prompt")
    negative_prompt: str | None = setting(None, "what the pictures shall not show")
    height: int | None = setting(None, "of a text-to-image model, in pixels; by default as trained", low=8)
    width: int | None = setting(None, "like height", low=8)
    lora: str | None = setting(None, "folder or file of LoRA adapters to put on the model")


@dataclass
class InpaintConfig(PicturesBase):
    """Filling in a part of pictures by RePaint (Lugmayr et al. 2022)."""

    output_dir: str = setting("inpainted", "folder for the pictures")
    image: str = setting("", "picture, or folder of pictures, to complete")
    mask: str = setting("", "picture: white is kept, black is made anew")
    num_images: int = setting(4, "versions of each picture", low=1)
    num_inference_steps: int | None = setting(250, "denoising steps, without those that are done again", low=1)
    jump_length: int = setting(10, "steps of each jump back", low=1)
    jump_n_sample: int = setting(10, "times that each stretch is gone through", low=1)


@dataclass
class InterpolateConfig(PicturesBase):
    """Pictures between two pictures (Ho et al. 2020, section 4.4)."""

    output_dir: str = setting("interpolated", "folder for the pictures")
    image_a: str = setting("", "the first picture")
    image_b: str = setting("", "the last picture")
    num_images: int = setting(9, "pictures in the row, with both ends", low=2)
    strength: float = setting(
        0.5, "how far into the noise, from 0 to 1: little keeps the pictures, much invents", above=0, high=1
    )
    scheduler: str = setting("ddim", "sampler", choices=["ddpm", "ddim"])


@dataclass
class PushConfig:
    """Uploading a pipeline that lies in a folder. The flags are those of training."""

    model: str = setting("", "folder of a saved pipeline")
    hub_model_id: str | None = setting(None, "its repository; by default the folder's name, of the logged-in user")
    hub_private_repo: bool = setting(False, "make that repository a private one")
    hub_token: str | None = setting(None, "token for the Hub; better given by HF_TOKEN or a login", secret=True)


@dataclass
class EvaluateConfig(SamplingBase):
    """How good a model's pictures are, measured against real ones."""

    model: str = setting("", "folder of a saved pipeline, or its name on the Hub; or give --fake")
    output_dir: str = setting("evaluation", "folder for metrics.json; interrupted, the same command goes on from there")
    batch_size: int = setting(64, "pictures made, and looked at, at once; does not change the figures", low=1)
    num_samples: int | None = setting(None, "pictures made for the figures; 10,000 if not given", low=1)
    scheduler: str = setting("ddim", "sampler", choices=SAMPLERS)
    eta: float | None = setting(None, "with ddim: 0 no noise on the way, 1 as much as ddpm", low=0, high=1)
    metrics: str = setting("fid,kid", "figures, with commas between", choices=METRICS, several=True)

    # what it is measured against
    dataset_name: str | None = setting(None, "data set of real pictures, as in training")
    dataset_config_name: str | None = setting(None, "configuration of the data set, where it has several")
    dataset_split: str = setting("train", "split of the data set")
    train_data_dir: str | None = setting(None, "folder of real pictures, resized as in training")
    image_column: str | None = setting(None, "column that holds the images; found by its type when not given")
    max_train_samples: int | None = setting(None, "use only so many real pictures, the first", low=1)
    resize_mode: str = setting(
        "squash", "of the real pictures, as in training; crop cuts their middle", choices=["squash", "crop"]
    )
    image_interpolation_mode: str = setting("bilinear", "of the real pictures, as in training", choices=INTERPOLATIONS)
    real: str | None = setting(None, "folder of real pictures, all of one size, taken as they are")
    real_statistics: str | None = setting(None, "file that --save_real_statistics wrote, instead of real pictures")
    save_real_statistics: str | None = setting(None, "file for the statistics of the real pictures")
    fake: str | None = setting(None, "folder of pictures, all of one size, instead of a model")

    # how
    features: str = setting(
        "inception", "network whose features are compared; digits: small, built in", choices=["inception", "digits"]
    )
    inception_weights: str | None = setting(
        None, "the FID literature's Inception-v3: a safetensors file, or on the Hub"
    )
    resize: str | None = setting(
        None,
        "to Inception's 299 pixels; pytorch-fid, if not given, or clean: antialiased, as clean-fid",
        choices=["pytorch-fid", "clean"],
    )
    keep_features: bool = setting(False, "write the features of the pictures to features.npz too")
    force: bool = setting(False, "give a FID of too few pictures all the same")


# --- command line and YAML -----------------------------------------------------------------------------------------


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


def value_types(config_class: type) -> dict[str, tuple[type, bool]]:
    """For each field of a configuration: its plain type, and whether it may be None."""
    result = {}
    for name, annotation in typing.get_type_hints(config_class).items():
        if isinstance(annotation, types.UnionType):
            plain = next(option for option in typing.get_args(annotation) if option is not type(None))
            result[name] = (plain, True)
        else:
            result[name] = (annotation, False)
    return result


def is_list(plain: type) -> bool:
    return typing.get_origin(plain) is list


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration's settings, without the secret ones."""
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if not item.metadata["secret"]}


def add_arguments(parser: argparse.ArgumentParser, config_class: type) -> None:
    """One flag for each field, with its aliases. A flag that is not given leaves no trace in the result."""
    plain_types = value_types(config_class)
    parser.add_argument(
        "--config", metavar="FILE", default=None, help="YAML file with any of these settings; flags win"
    )
    for item in dataclasses.fields(config_class):
        plain, _ = plain_types[item.name]
        names = [f"--{name}" for name in (item.name, *item.metadata["aliases"])]
        text = item.metadata["help"].replace("%", "%%")
        if item.default not in (None, ""):
            text += f" (default: {item.default})"
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text}
        if plain is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
        else:
            if is_list(plain):
                options["nargs"] = "+"
            metavar = "|".join(item.metadata["choices"]) or ("TEXT" if is_list(plain) else plain.__name__.upper())
            parser.add_argument(*names, metavar=metavar, **options)


def from_arguments(config_class: type, arguments: argparse.Namespace, defaults: dict[str, Any] | None = None) -> Any:
    """Build a configuration: defaults (``defaults`` before the class's own), then the YAML file, then the flags.

    Raises:
        ConfigError: with every unknown name and every value of the wrong type.
    """
    given = {
        item.name: getattr(arguments, item.name)
        for item in dataclasses.fields(config_class)
        if hasattr(arguments, item.name)
    }
    problems: list[str] = []
    values = read_yaml(arguments.config, config_class, problems) if getattr(arguments, "config", None) else {}
    values.update(given)
    defaults = dict(defaults or {})
    if {"model_config_name_or_path", "pretrained_model_name_or_path"} & set(values):
        defaults.pop("preset", None)
    return from_dict(config_class, {**defaults, **values}, problems)


def read_yaml(path: str, config_class: type, problems: list[str]) -> dict[str, Any]:
    """Settings from a YAML file, by field name or alias; what is wrong goes into ``problems``."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"--config {path}: cannot be read ({error.strerror})")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"--config {path}: is not YAML ({first_line(error)})")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"--config {path}: must hold 'name: value' lines")
        return {}
    names = {}
    for item in dataclasses.fields(config_class):
        names.update({alias: item.name for alias in (item.name, *item.metadata["aliases"])})
    values = {}
    for key, value in content.items():
        if key in names:
            values[names[key]] = value
        else:
            close = difflib.get_close_matches(str(key), names, n=1)
            problems.append(
                f"--config {path}: unknown setting '{key}'" + (f"; did you mean '{close[0]}'?" if close else "")
            )
    return values


def from_dict(config_class: type, values: dict[str, Any], problems: list[str] | None = None) -> Any:
    """Build a configuration from values that may still be text, each converted to its field's type.

    Raises:
        ConfigError: listing ``problems`` and every value that does not convert.
    """
    problems = [] if problems is None else problems
    plain_types = value_types(config_class)
    converted = {}
    for name, value in values.items():
        plain, optional = plain_types[name]
        try:
            converted[name] = _convert(value, plain, optional)
        except (ValueError, TypeError):
            wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(plain, "text")
            problems.append(f"--{name} {value}: must be {wanted}")
    if problems:
        raise ConfigError(*problems)
    return config_class(**converted)


def _convert(value: Any, plain: type, optional: bool) -> Any:
    if value is None or (optional and isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
        raise ValueError
    if is_list(plain):
        return [str(text) for text in (value if isinstance(value, list) else [value])]
    if plain is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "1", "yes", "false", "0", "no"):
            return str(value).lower() in ("true", "1", "yes")
        raise ValueError
    if plain is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if plain is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    return str(value)


def to_yaml(config: Any) -> str:
    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


# --- validation ----------------------------------------------------------------------------------------------------


def check_fields(config: Any) -> list[str]:
    """Problems that one field shows by itself: choices, bounds, not-a-number."""
    problems = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value is None:
            continue
        choices, low, high, above = (item.metadata[key] for key in ("choices", "low", "high", "above"))
        if value in ("", []) and item.default != "":
            problems.append(f"--{item.name}: must not be empty")
        elif choices and not set(value.split(",") if item.metadata["several"] else [value]) <= set(choices):
            problems.append(f"--{item.name} {value}: must be one of {', '.join(choices)}")
        if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
            problems.append(f"--{item.name} {value}: must be a finite number")
        elif low is not None and value < low:
            problems.append(f"--{item.name} {value}: must be at least {low}")
        elif high is not None and value > high:
            problems.append(f"--{item.name} {value}: must be at most {high}")
        elif above is not None and value <= above:
            problems.append(f"--{item.name} {value}: must be above {above}")
    return problems


def unet_preset(config: TrainingConfig) -> str:
    """The name of the preset that a configuration asks for, or that fits its image size."""
    name = config.preset or preset_for(config.image_size)
    return PRESET_ALIASES.get(name, name)


def looks_like_hub_name(name: str) -> bool:
    """Whether a name that is no folder here can be user/name on the Hub."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def read_model_config(config: TrainingConfig, problems: list[str]) -> dict[str, Any] | None:
    """The UNet's settings: of the preset, or of a local ``config.json``; None where they come from the Hub."""
    if config.pretrained_model_name_or_path is not None:
        flag, name = "--pretrained_model_name_or_path", config.pretrained_model_name_or_path
        places = [Path(name) / "unet" / "config.json"]
    elif config.model_config_name_or_path is not None:
        flag, name = "--model_config_name_or_path", config.model_config_name_or_path
        places = [Path(name), Path(name) / "config.json", Path(name) / "unet" / "config.json"]
    else:
        return UNET_PRESETS.get(unet_preset(config))
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        if looks_like_hub_name(name) and not Path(name).exists():
            return None
        wanted = "pipeline with unet/config.json" if len(places) == 1 else "file, and no folder with a config.json"
        problems.append(f"{flag} {name}: no such {wanted}")
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{flag} {name}: {path.name} is not JSON ({error})")
        return None
    kind = content.get("_class_name", "UNet2DModel") if isinstance(content, dict) else type(content).__name__
    if kind != "UNet2DModel":
        problems.append(f"{flag} {name}: is the configuration of a {kind}; a UNet2DModel is needed")
        return None
    return content


def near_multiples(size: int, divisor: int) -> str:
    """The multiples of ``divisor`` below and above a size, for a message."""
    below = size // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)


def check_size(image_size: int, block_out_channels: Sequence[int], flag: str = "--image_size") -> list[str]:
    divisor = size_divisor(block_out_channels)
    if image_size % divisor == 0:
        return []
    return [
        f"{flag} {image_size}: this UNet halves the image {len(block_out_channels) - 1} times, so the size "
        f"must be a multiple of {divisor}, for example {near_multiples(image_size, divisor)}"
    ]


def check_engine(config: EngineConfig) -> list[str]:
    """Problems in what every kind of training has."""
    problems = check_fields(config)
    if config.dataset_name is None and config.train_data_dir is None:
        problems.append("--dataset_name or --train_data_dir: give one of them ('--dataset_name digits' is built in)")
    if config.dataset_name is not None and config.train_data_dir is not None:
        problems.append("--dataset_name and --train_data_dir: give only one of them")
    if config.streaming and config.dataloader_num_workers > 1:
        problems.append("--streaming and --dataloader_num_workers: a stream is read by one process; leave the latter")
    if Path(config.logging_dir).is_absolute() or {".", ".."} & set(Path(config.logging_dir).parts or ["."]):
        problems.append(f"--logging_dir {config.logging_dir}: must be a folder's name inside --output_dir")
    if config.adam_beta1 >= 1 or config.adam_beta2 >= 1:
        problems.append("--adam_beta1 and --adam_beta2: must be below 1")
    if max(config.ema_max_decay, config.ema_decay or 0.0) > 1:
        problems.append("--ema_max_decay and --ema_decay: must be at most 1")
    if (config.lr_scheduler == "piecewise_constant") != (config.lr_step_rules is not None):
        problems.append("--lr_scheduler piecewise_constant and --lr_step_rules: belong together")
    elif config.lr_step_rules is not None:
        try:
            parse_step_rules(config.lr_step_rules)
        except ValueError:
            problems.append(
                f"--lr_step_rules {config.lr_step_rules}: must be factor:until_step pairs with rising steps, and a "
                "last factor, such as 1:1000,0.1:2000,0.01"
            )
    if "none" in config.report_to.split(",") and config.report_to != "none":
        problems.append(f"--report_to {config.report_to}: none stands alone")
    return problems


def parse_step_rules(text: str) -> tuple[list[tuple[float, int]], float]:
    """``factor:until_step`` pairs and the factor after the last of them. Raises ValueError."""
    *pairs, last = text.split(",")
    rules = [(float(factor), int(until)) for factor, until in (pair.split(":") for pair in pairs)]
    untils = [until for _, until in rules]
    if untils != sorted(set(untils)) or any(factor < 0 for factor, _ in rules) or float(last) < 0:
        raise ValueError(text)
    return rules, float(last)


def check_training(config: TrainingConfig) -> None:
    """Check all that can be known without the data and without MindSpore.

    Raises:
        ConfigError: with one line for each problem, all at once.
    """
    problems = check_engine(config) + check_objective(config) + check_classes(config) + check_eval_metrics(config)
    if config.channels not in (1, 3, 4) and config.channels >= 1:
        problems.append(f"--channels {config.channels}: must be 1 (grey), 3 (RGB) or 4 (RGBA)")
    if config.ddpm_num_inference_steps > config.ddpm_num_steps:
        problems.append(
            f"--ddpm_num_inference_steps {config.ddpm_num_inference_steps}: must be at most "
            f"--ddpm_num_steps ({config.ddpm_num_steps})"
        )
    sources = ("preset", "model_config_name_or_path", "pretrained_model_name_or_path")
    given = [f"--{name}" for name in sources if getattr(config, name) is not None]
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: give only one of them")
    model = read_model_config(config, problems)
    if model is not None and isinstance(model.get("block_out_channels"), (list, tuple)) and config.image_size >= 2:
        problems += check_size(config.image_size, model["block_out_channels"])
    for name in ("in_channels", "out_channels"):
        if model is not None and model.get(name, config.channels) != config.channels:
            problems.append(f"--channels {config.channels}: the model's {name} is {model[name]}; they must agree")
    if problems:
        raise ConfigError(*problems)


def check(config: EngineConfig) -> None:
    """Check a training configuration of any kind. Raises ConfigError."""
    if isinstance(config, TrainingConfig):
        check_training(config)
    elif isinstance(config, TextToImageConfig):
        check_text_to_image(config)


def check_text_to_image(config: TextToImageConfig) -> None:
    """Check all that can be known without the data, the pipeline and MindSpore.

    Raises:
        ConfigError: with one line for each problem, all at once.
    """
    problems = check_engine(config)
    name = config.pretrained_model_name_or_path
    if name is None:
        problems.append("--pretrained_model_name_or_path: give the Stable Diffusion pipeline to fine-tune")
    elif not Path(name).is_dir() and not looks_like_hub_name(name):
        problems.append(f"--pretrained_model_name_or_path {name}: no such folder")
    if config.use_8bit_adam:
        problems.append(
            "--use_8bit_adam: MindSpore has no 8-bit Adam; --optimizer adafactor or lion keep less state too"
        )
    if config.lora_alpha is not None and config.rank is None:
        problems.append("--lora_alpha: has a meaning with --rank only")
    cropped_at_random = config.resize_mode == "crop" and not config.center_crop
    if config.cache_latents and cropped_at_random:
        problems.append("--cache_latents: random crops cannot be kept; give --center_crop, or --resize_mode squash")
    if config.cache_latents and config.streaming:
        problems.append("--cache_latents and --streaming: what is streamed is not kept; give only one of them")
    if problems:
        raise ConfigError(*problems)


def check_objective(config: TrainingConfig) -> list[str]:
    problems = []
    if config.rescale_betas_zero_snr and config.prediction_type == "epsilon":
        problems.append(
            "--rescale_betas_zero_snr and --prediction_type epsilon: from pure noise the noise tells nothing; "
            "use v_prediction or sample"
        )
    if config.snr_gamma is not None and config.loss_weighting != "auto":
        problems.append("--snr_gamma and --loss_weighting: give only one of them")
    if config.loss_weighting == "snr" and config.prediction_type != "sample":
        problems.append(f"--loss_weighting snr: is for --prediction_type sample, not {config.prediction_type}")
    return problems


def check_eval_metrics(config: TrainingConfig) -> list[str]:
    problems = []
    wanted = [] if config.eval_metrics is None else config.eval_metrics.split(",")
    if wanted and config.eval_features == "inception" and config.inception_weights is None:
        problems.append("--eval_metrics: give --inception_weights (see docs/metrics.md), or --eval_features digits")
    needed = "precision_recall" if config.save_best in ("precision", "recall") else config.save_best
    if needed is not None and needed not in wanted:
        problems.append(f"--save_best {config.save_best}: needs --eval_metrics {needed}")
    if config.eval_metrics_steps and not wanted:
        problems.append("--eval_metrics_steps: has a meaning with --eval_metrics only")
    if config.validation_split and config.validation_data_dir is not None:
        problems.append("--validation_split and --validation_data_dir: give only one of them")
    if config.validation_split and config.streaming:
        problems.append("--validation_split: a stream cannot be split; use --validation_data_dir")
    if config.validation_loss_steps and not config.validation_split and config.validation_data_dir is None:
        problems.append("--validation_loss_steps: needs --validation_split or --validation_data_dir")
    return problems


def check_classes(config: TrainingConfig) -> list[str]:
    problems = []
    if not config.class_conditional:
        if config.label_column is not None:
            problems.append("--label_column: has a meaning with --class_conditional only")
        if config.guidance_scale != 1:
            problems.append("--guidance_scale: has a meaning with --class_conditional only")
    elif config.guidance_scale != 1 and config.label_dropout == 0:
        problems.append(
            "--guidance_scale and --label_dropout 0: guidance needs a model that has seen images unlabelled"
        )
    return problems


def check_writable(folder: Path) -> None:
    """Raises ConfigError if a folder cannot be made, or written into."""
    obstacle = unwritable(folder)
    if obstacle is not None:
        raise ConfigError(f"--output_dir {folder}: {obstacle} cannot be written into; give another folder")


def unwritable(folder: Path) -> Path | None:
    """What keeps a folder from being made, or written into: itself, or what is there above it. None if nothing does."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return None if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else existing


def check_sampling_base(config: PicturesBase) -> list[str]:
    problems = check_fields(config)
    if not config.model:
        problems.append("--model: give the folder of a saved pipeline")
    if config.bit_depth not in (8, 16):
        problems.append(f"--bit_depth {config.bit_depth}: must be 8 or 16")
    return problems


def check_sampling(config: SampleConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_sampling_base(config)
    if config.eta is not None and config.scheduler != "ddim":
        problems.append("--eta: is a setting of --scheduler ddim")
    if config.clip_sample is not None and config.scheduler not in (None, "ddpm", "ddim"):
        problems.append(f"--clip_sample: is a setting of ddpm and ddim; {config.scheduler} has none")
    if config.prompt is not None and config.prompts_file is not None:
        problems.append("--prompt and --prompts_file: give only one of them")
    if problems:
        raise ConfigError(*problems)


def check_push(config: PushConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_fields(config)
    if not config.model:
        problems.append("--model: give the folder of a saved pipeline")
    if problems:
        raise ConfigError(*problems)


def check_evaluation(config: EvaluateConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_fields(config)
    if bool(config.model) == (config.fake is not None):
        problems.append("--model or --fake: give one of them: a model, or a folder of pictures")
    sources = ("dataset_name", "train_data_dir", "real", "real_statistics")
    given = [f"--{name}" for name in sources if getattr(config, name) is not None]
    needs_real = set(config.metrics.split(",")) != {"inception_score"}
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: give only one of them")
    if not given and needs_real:
        problems.append("--dataset_name, --train_data_dir, --real or --real_statistics: give the real pictures")
    for name in ("real", "fake"):
        folder = getattr(config, name)
        if folder is not None and not Path(folder).is_dir():
            problems.append(f"--{name} {folder}: no such folder")
    for name in ("dataset_name", "train_data_dir"):
        if getattr(config, name) is not None and not config.model:
            problems.append(f"--{name}: goes with --model, which says how large pictures are; with --fake give --real")
    if config.features == "inception" and config.inception_weights is None:
        problems.append(
            "--inception_weights: give the Inception-v3 of the FID literature as safetensors (docs/metrics.md says how "
            "to have it), or use --features digits"
        )
    if config.eta is not None and config.scheduler != "ddim":
        problems.append("--eta: is a setting of --scheduler ddim")
    problems += check_used(config)
    if problems:
        raise ConfigError(*problems)


def check_used(config: EvaluateConfig) -> list[str]:
    """One line for each flag that would have no effect beside the others."""
    of_a_model = ("num_samples", "num_inference_steps", "class_label", "guidance_scale", "eta")
    of_a_data_set = ("dataset_config_name", "image_column", "max_train_samples")
    without_effect: dict[str, tuple[str, ...]] = {}
    if config.fake is not None:
        without_effect["--fake"] = of_a_model
    if config.real is not None:
        without_effect["--real"] = of_a_data_set
    if config.real_statistics is not None:
        without_effect["--real_statistics"] = (*of_a_data_set, "save_real_statistics")
    if config.features == "digits":
        without_effect["--features digits"] = ("inception_weights", "resize")
    return [
        f"--{name}: has no meaning with {other}"
        for other, names in without_effect.items()
        for name in names
        if getattr(config, name) is not None
    ]


def check_inpainting(config: InpaintConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_sampling_base(config)
    problems += [f"--{name}: give a picture" for name in ("image", "mask") if not getattr(config, name)]
    if config.num_inference_steps is not None and config.jump_length >= config.num_inference_steps:
        problems.append(f"--jump_length {config.jump_length}: must be below --num_inference_steps")
    if problems:
        raise ConfigError(*problems)


def check_interpolation(config: InterpolateConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_sampling_base(config)
    problems += [f"--{name}: give a picture" for name in ("image_a", "image_b") if not getattr(config, name)]
    if problems:
        raise ConfigError(*problems)

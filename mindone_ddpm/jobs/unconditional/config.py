"""The settings of the unconditional job. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.groups import (
    EngineConfig,
    LabelConfig,
)
from mindone_ddpm.evaluation.config import EvaluationConfig, ValidationConfig
from mindone_ddpm.models.config import ModelConfig, read_model_config
from mindone_ddpm.models.presets import check_size
from mindone_ddpm.objectives.config import OF_DDPM, OF_FLOW_MATCHING, NoiseScheduleConfig


@dataclass
class TrainingConfig(ValidationConfig, EvaluationConfig, LabelConfig, NoiseScheduleConfig, ModelConfig, EngineConfig):
    """Training a UNet on images. Names and defaults follow the published tutorial and scripts."""

    heading: ClassVar[str] = "samples and precision of images"

    output_dir: str = setting(
        "ddpm-butterflies-128", "folder for the pipeline, samples and logs", private=True, outside_graph=True
    )
    preserve_input_precision: bool = setting(
        False, "keep 16-bit and float images at their precision instead of rounding them to 8 bits", resume="locked"
    )
    recipe: str | None = setting(
        None,
        "best: choose objective, noise levels, averaging and augmentation by the images' size and how often each is "
        "seen, and say why; what is given stays",
        choices=["best"],
        resume="locked",
    )
    augment_probability: float = setting(
        0.0,
        "for few images: flip, scale, rotate, stretch and move each with this probability, and tell the network, so "
        "that it does not make such images; 0.12 is usual",
        low=0,
        high=1,
        resume="locked",
    )
    eval_batch_size: int = setting(16, "images in a grid of samples", low=1)
    ddpm_num_inference_steps: int | None = setting(
        None,
        "denoising steps for the grids, with the sampler that the pipeline is saved with, as the published scripts "
        "do; by default 25 evaluations of a fast sampler",
        low=1,
    )
    guidance_scale: float = setting(1.0, "for the grids of a class-conditional model; see sampling", low=0)

    def own_problems(self) -> list[str]:
        problems = []
        if self.snr_gamma is not None and self.loss_weighting != "auto":
            problems.append("--snr_gamma and --loss_weighting: give only one of them")
        if self.guidance_scale != 1 and not self.class_conditional:
            problems.append("--guidance_scale: has a meaning with --class_conditional only")
        elif self.guidance_scale != 1 and self.label_dropout == 0:
            problems.append(
                "--guidance_scale and --label_dropout 0: guidance needs a model that has seen images unlabelled"
            )
        if self.validation_split and self.streaming:
            problems.append("--validation_split: a stream cannot be split; use --validation_data_dir")
        if self.channels not in (1, 3, 4) and self.channels >= 1:
            problems.append(f"--channels {self.channels}: must be 1 (grey), 3 (RGB) or 4 (RGBA)")
        if (self.ddpm_num_inference_steps or 1) > self.ddpm_num_steps:
            problems.append(
                f"--ddpm_num_inference_steps {self.ddpm_num_inference_steps}: must be at most "
                f"--ddpm_num_steps ({self.ddpm_num_steps})"
            )
        sources = ("preset", "model_config_name_or_path", "pretrained_model_name_or_path")
        given = [f"--{name}" for name in sources if getattr(self, name) is not None]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)}: give only one of them")
        stays_ddpm = self.recipe is None or self.not_default(OF_DDPM)  # else the recipe chooses flow matching
        if self.objective == "auto" and self.pretrained_model_name_or_path is None and stays_ddpm:
            problems += [
                f"--{name}: give it with --objective flow_matching" for name in self.not_default(OF_FLOW_MATCHING)
            ]
        model = read_model_config(self, problems)
        if model is not None and isinstance(model.get("block_out_channels"), (list, tuple)) and self.image_size >= 2:
            problems += check_size(self.image_size, model["block_out_channels"])
        for name in ("in_channels", "out_channels"):
            if model is not None and model.get(name, self.channels) != self.channels:
                problems.append(f"--channels {self.channels}: the model's {name} is {model[name]}; they must agree")
        return problems


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
    "ddpm_num_inference_steps": 1000,
}

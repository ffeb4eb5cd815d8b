"""Settings of evaluation: during training, and by the evaluate command. Free of MindSpore."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import Settings, setting
from mindone_ddpm.config.groups import FEATURES, HIGHER_IS_BETTER, INTERPOLATIONS, METRICS, SAMPLERS
from mindone_ddpm.config.hub import HubChoice
from mindone_ddpm.sampling.config import SamplingBase


@dataclass
class EvaluationConfig(HubChoice):
    """Metrics measured during training."""

    heading: ClassVar[str] = "metrics during training"

    eval_metrics: str | None = setting(
        None, "metrics measured during training, with commas between", choices=METRICS, several=True
    )
    eval_metrics_steps: int = setting(0, "steps between measurements (and one at the end); 0: at the end only", low=0)
    eval_num_samples: int = setting(1000, "generated images for each measurement", low=2)
    eval_num_inference_steps: int = setting(
        50, "denoising steps of those images, of DDIM or for flow matching of Euler", low=1
    )
    eval_features: str = setting(
        "inception",
        "network whose features are compared; digits: small, built in; pixels: 16x16 pixels, without a network",
        choices=FEATURES,
    )
    inception_weights: str | None = setting(
        None, "the FID literature's Inception-v3: a safetensors file, or on the hub"
    )
    eval_resize: str = setting(
        "pytorch-fid", "to the network's 299 pixels; clean: antialiased, as clean-fid", choices=["pytorch-fid", "clean"]
    )
    save_best: str | None = setting(
        None, "keep the pipeline with the best value of this metric in best/", choices=list(HIGHER_IS_BETTER)
    )

    def own_problems(self) -> list[str]:
        problems = []
        wanted = [] if self.eval_metrics is None else self.eval_metrics.split(",")
        if wanted and self.eval_features == "inception" and self.inception_weights is None:
            problems.append("--eval_metrics: give --inception_weights (see docs/metrics.md), or --eval_features digits")
        needed = None if self.save_best is None else metric_that_gives(self.save_best)
        if needed is not None and needed not in wanted:
            problems.append(f"--save_best {self.save_best}: needs --eval_metrics {needed}")
        if self.eval_metrics_steps and not wanted:
            problems.append("--eval_metrics_steps: has a meaning with --eval_metrics only")
        return problems


@dataclass
class ValidationConfig(Settings):
    """The loss on held-out images, measured during training."""

    heading: ClassVar[str] = "loss on held-out images"

    validation_split: float = setting(
        0.0,
        "share of the images that is held out: not trained on, its loss is measured",
        low=0,
        high=0.9,
        resume="locked",
    )
    validation_data_dir: str | None = setting(None, "folder of held-out images, whose loss is measured")
    validation_loss_steps: int = setting(
        0, "steps between measurements (and one at the end); 0: at the end only", low=0
    )
    validation_num_images: int = setting(100, "images that are measured, at most", low=1)

    def own_problems(self) -> list[str]:
        problems = []
        if self.validation_split and self.validation_data_dir is not None:
            problems.append("--validation_split and --validation_data_dir: give only one of them")
        if self.validation_loss_steps and not self.validation_split and self.validation_data_dir is None:
            problems.append("--validation_loss_steps: needs --validation_split or --validation_data_dir")
        return problems


@dataclass
class EvaluateConfig(SamplingBase):
    """How good a model's images are, measured against real ones."""

    heading: ClassVar[str] = "evaluation"

    model: str = setting("", "folder of a saved pipeline, or its name on the hub; or give --fake")
    output_dir: str = setting("evaluation", "folder for metrics.json; after an interruption the same command continues")
    batch_size: int = setting(64, "images per batch; does not change the metrics", low=1)
    num_samples: int | None = setting(None, "generated images; 10,000 if not given", low=1)
    scheduler: str | None = setting(None, "sampler; by default ddim, for flow matching dpmsolver++", choices=SAMPLERS)
    eta: float | None = setting(None, "with ddim: 0 no noise between the steps, 1 as much as ddpm", low=0, high=1)
    metrics: str = setting("fid,kid", "metrics, with commas between", choices=METRICS, several=True)

    # what it is measured against
    dataset_name: str | None = setting(None, "data set of real images, as in training")
    dataset_config_name: str | None = setting(None, "configuration of the data set, where it has several")
    dataset_split: str = setting("train", "split of the data set")
    train_data_dir: str | None = setting(None, "folder of real images, resized as in training")
    image_column: str | None = setting(None, "column that holds the images; found by its type when not given")
    max_train_samples: int | None = setting(None, "use only so many real images, the first", low=1)
    resize_mode: str = setting(
        "squash", "of the real images, as in training; crop cuts their middle", choices=["squash", "crop"]
    )
    image_interpolation_mode: str = setting("bilinear", "of the real images, as in training", choices=INTERPOLATIONS)
    real: str | None = setting(None, "folder of real images, all of one size, taken as they are")
    real_statistics: str | None = setting(None, "file that --save_real_statistics wrote, instead of real images")
    save_real_statistics: str | None = setting(None, "file for the statistics of the real images")
    fake: str | None = setting(None, "folder of images, all of one size, instead of a model")

    copies: bool = setting(False, "also look for copies of training images among the generated ones")
    held_out: str | None = setting(
        None, "with --copies: folder of images that were not trained on, to compare with; resized as the real ones"
    )

    # how
    features: str = setting(
        "inception",
        "network whose features are compared; digits: small, built in; pixels: 16x16 pixels, without a network",
        choices=FEATURES,
    )
    inception_weights: str | None = setting(
        None, "the FID literature's Inception-v3: a safetensors file, or on the hub"
    )
    resize: str | None = setting(
        None,
        "to Inception's 299 pixels; pytorch-fid, if not given, or clean: antialiased, as clean-fid",
        choices=["pytorch-fid", "clean"],
    )
    keep_features: bool = setting(False, "write the features of the images to features.npz too")
    force: bool = setting(False, "compute a FID from too few images all the same")

    def own_problems(self) -> list[str]:
        problems = []
        if bool(self.model) == (self.fake is not None):
            problems.append("--model or --fake: give one of them: a model, or a folder of images")
        sources = ("dataset_name", "train_data_dir", "real", "real_statistics")
        given = [f"--{name}" for name in sources if getattr(self, name) is not None]
        needs_real = set(self.metrics.split(",")) != {"inception_score"}
        if len(given) > 1:
            problems.append(f"{' and '.join(given)}: give only one of them")
        if not given and needs_real:
            problems.append("--dataset_name, --train_data_dir, --real or --real_statistics: give the real images")
        for name in ("real", "fake"):
            folder = getattr(self, name)
            if folder is not None and not os.path.isdir(folder):
                problems.append(f"--{name} {folder}: no such folder")
        for name in ("dataset_name", "train_data_dir"):
            if getattr(self, name) is not None and not self.model:
                problems.append(
                    f"--{name}: goes with --model, which says how large images are; with --fake give --real"
                )
        if self.features == "inception" and self.inception_weights is None:
            problems.append(
                "--inception_weights: give the Inception-v3 of the FID literature as safetensors (docs/metrics.md), "
                "or use --features pixels, or digits for digits"
            )
        if self.eta is not None and self.scheduler != "ddim":
            problems.append("--eta: is a setting of --scheduler ddim")
        if self.copies and (self.real_statistics is not None or not given):
            problems.append("--copies: give the training images, by --train_data_dir, --dataset_name or --real")
        if self.held_out is not None and not self.copies:
            problems.append("--held_out: has a meaning with --copies only")
        elif self.held_out is not None and not os.path.isdir(self.held_out):
            problems.append(f"--held_out {self.held_out}: no such folder")
        elif self.held_out is not None and self.real is not None:
            problems.append("--held_out: goes with --train_data_dir or --dataset_name, which say how it is resized")
        problems += check_used(self)
        return problems


def metric_that_gives(value: str) -> str:
    """The metric to ask for, to find a value such as ``precision``."""
    return "precision_recall" if value in ("precision", "recall") else value


def check_used(config: EvaluateConfig) -> list[str]:
    """One line for each flag that has no effect together with the others."""
    of_a_model = ("num_samples", "num_inference_steps", "class_label", "guidance_scale", "eta")
    of_a_data_set = ("dataset_config_name", "image_column", "max_train_samples")
    without_effect: dict[str, tuple[str, ...]] = {}
    if config.fake is not None:
        without_effect["--fake"] = of_a_model
    if config.real is not None:
        without_effect["--real"] = of_a_data_set
    if config.real_statistics is not None:
        without_effect["--real_statistics"] = (*of_a_data_set, "save_real_statistics")
    if config.features != "inception":
        without_effect[f"--features {config.features}"] = ("inception_weights", "resize")
    return [
        f"--{name}: has no meaning with {other}"
        for other, names in without_effect.items()
        for name in names
        if getattr(config, name) is not None
    ]

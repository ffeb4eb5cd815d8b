"""``--recipe best``: settings for good images, by the number of images and their size. Free of MindSpore."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindone_ddpm.config.groups import BUILT_IN_DATASETS
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.objectives.config import OF_DDPM

# From so many passes over the images on they are learnt by heart, and augmentation helps; in fewer it costs quality:
# measured in docs/quality.md. The probability is that of Karras et al. 2022 for 50,000 images and 4,000 passes.
MANY_PASSES, AUGMENT_PROBABILITY = 200, 0.12
LOGIT_STD = 1.2  # 1 is better in very short runs, 1.4 in long ones: docs/quality.md
UNSHIFTED_SIZE = 64  # pixels: larger images need more noise before they are hidden (Hoogeboom et al. 2023, section 3.1)


def apply_recipe(config: TrainingConfig, num_images: int, world_size: int = 1) -> tuple[TrainingConfig, list[str]]:
    """The settings that the recipe of ``config`` chooses, and why, a line for each.

    A setting that was given, and is not its default, stays as it is.

    Args:
        num_images: that are trained on.
        world_size: ranks.
    """
    if config.recipe is None:
        return config, []
    chosen: dict[str, tuple[Any, str]] = {}
    if config.pretrained_model_name_or_path is not None:
        pass  # its noise levels and its objective stay
    elif config.objective == "auto" and not config.not_default(OF_DDPM):
        chosen["objective"] = ("flow_matching", "nearer to the data than ddpm in the same minutes")
    passes = num_passes(config, num_images, world_size)
    if "flow_matching" in (config.objective, chosen.get("objective", ("",))[0]):
        chosen |= _of_flow_matching(config, passes)
    if not config.use_ema:
        chosen["use_ema"] = (True, "averaged weights make cleaner images")
    if config.lr_scheduler == TrainingConfig.lr_scheduler:
        chosen["lr_scheduler"] = ("constant_with_warmup", "the average takes the place of a rate that falls")
    if config.augment_probability == 0.0 and passes >= MANY_PASSES and config.dataset_name not in BUILT_IN_DATASETS:
        why = f"seen as they are {passes:,.0f} times, {num_images:,} images would be learnt by heart"
        chosen["augment_probability"] = (AUGMENT_PROBABILITY, why)
    lines = [f"{_as_flag(name, value)}: {why}" for name, (value, why) in chosen.items()]
    return replace(config, **{name: value for name, (value, _) in chosen.items()}), lines


def _of_flow_matching(config: TrainingConfig, passes: float) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    shift = round(config.image_size / UNSHIFTED_SIZE, 2)
    if config.flow_shift == 1.0 and shift > 1.0:
        found["flow_shift"] = (shift, f"images of {config.image_size} pixels hide behind more noise than small ones")
    if config.timestep_sampling == "uniform":
        found["timestep_sampling"] = ("logit_normal", "in the middle of the path the direction is the hardest to tell")
        if config.logit_std == TrainingConfig.logit_std:
            found["logit_std"] = (LOGIT_STD, "and the ends are learnt too")
    if not config.stratified_timesteps:
        found["stratified_timesteps"] = (True, "noise levels spread evenly over each batch make a steadier loss")
    if config.noise_coupling == "independent" and passes < MANY_PASSES:  # it also learns images by heart sooner
        found["noise_coupling"] = ("optimal_transport", "from noise that lies near its image, paths cross less")
    return found


def num_passes(config: TrainingConfig, num_images: int, world_size: int) -> float:
    """How often a run sees each image."""
    if config.max_train_steps is None:
        return config.num_epochs
    batch = config.train_batch_size * config.gradient_accumulation_steps * world_size
    return config.max_train_steps * batch / num_images


def _as_flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}"
    return f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"

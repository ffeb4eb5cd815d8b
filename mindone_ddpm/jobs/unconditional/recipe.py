"""``--recipe best``: settings for good images, by the number of images and their size. Free of MindSpore."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindone_ddpm.config.groups import BUILT_IN_DATASETS
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.objectives.config import OF_DDPM

# Up to so many images: the probability of each transformation. 0.12 is that of Karras et al. 2022 for 50,000 images
# and many passes over them; the fewer images, the sooner they are learnt by heart.
AUGMENTATION = ((1_000, 0.15), (5_000, 0.12), (20_000, 0.06))
UNSHIFTED_SIZE = 64  # pixels: larger images need more noise before they are hidden (Hoogeboom et al. 2023, section 3.1)


def apply_recipe(config: TrainingConfig, num_images: int) -> tuple[TrainingConfig, list[str]]:
    """The settings that the recipe of ``config`` chooses, and why, a line for each.

    A setting that was given, and is not its default, stays as it is.
    """
    if config.recipe is None:
        return config, []
    chosen: dict[str, tuple[Any, str]] = {}
    of_ddpm = [name for name in OF_DDPM if getattr(config, name) != getattr(TrainingConfig, name)]
    if config.pretrained_model_name_or_path is not None:
        pass  # its noise levels and its objective stay
    elif config.objective == "auto" and not of_ddpm:
        chosen["objective"] = ("flow_matching", "nearer to the data than ddpm in the same minutes")
    is_flow = "flow_matching" in (config.objective, chosen.get("objective", ("",))[0])
    shift = round(config.image_size / UNSHIFTED_SIZE, 2)
    if is_flow and config.flow_shift == 1.0 and shift > 1.0:
        chosen["flow_shift"] = (shift, f"images of {config.image_size} pixels hide behind more noise than small ones")
    if not config.use_ema:
        chosen["use_ema"] = (True, "averaged weights make cleaner images")
    probability = next((value for most, value in AUGMENTATION if num_images <= most), 0.0)
    if config.augment_probability == 0.0 and probability and config.dataset_name not in BUILT_IN_DATASETS:
        why = f"{num_images:,} images are few: seen as they are again and again, they would be learnt by heart"
        chosen["augment_probability"] = (probability, why)
    lines = [f"{_as_flag(name, value)}: {why}" for name, (value, why) in chosen.items()]
    return replace(config, **{name: value for name, (value, _) in chosen.items()}), lines


def _as_flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}"
    return f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"

"""The preview of a job's data, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import quiet_libraries
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.data.preview import draw_preview
from mindone_ddpm.jobs.base import JOBS, job_class, job_of_config
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.recipe import apply_recipe
from mindone_ddpm.output.run_folder import RUN_CONFIG

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_preview(config: EngineConfig, path: Path, num_images: int = 16) -> None:
    """Write an image file: the first images of a run as they are stored, and below as the model will see them.

    Raises:
        ConfigError, DataError: the settings or the data cannot be used.
    """
    if num_images < 1:
        raise ConfigError(f"--num_images {num_images}: must be at least 1")
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output {path}: must end in .png, .jpg or .webp")
    quiet_libraries()
    datasets = job_class(config).open_data(config)
    if getattr(config, "recipe", None) is not None:  # which only training on images has
        config, _ = apply_recipe(cast(TrainingConfig, config), len(datasets[0]))
    probability = getattr(config, "augment_probability", 0.0)
    page = draw_preview(datasets, num_images, config.seed, probability)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def preview_of_run(run: Path, settings: dict[str, Any], folder: Path) -> Path | None:
    """Draw the data of a run, from the settings that it recorded, into a file of ``folder``.

    None where that cannot be done: the data have moved, this machine is offline, the job is not installed here.
    """
    path = folder / "preview.png"
    try:
        config_class = JOBS[job_of_config(run / RUN_CONFIG)].config
        config = config_class(**settings)
        # As many as in a grid of samples, so that one is as large as the other.
        write_preview(config, path, num_images=min(getattr(config, "eval_batch_size", 16), 64))
    except Exception:  # the report does without
        return None
    return path

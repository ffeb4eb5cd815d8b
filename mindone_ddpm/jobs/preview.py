"""The preview of the data of a training configuration, as a file."""

from __future__ import annotations

from pathlib import Path

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import quiet_libraries
from mindone_ddpm.data.preview import draw_preview
from mindone_ddpm.jobs.text_to_image.captions import open_captioned
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.data import open_records


def write_preview(config: TrainingConfig | TextToImageConfig, path: Path, num_images: int) -> None:
    """Write an image file: the first images of the run as they are stored, and below as the model will see them.

    Raises:
        ConfigError, DataError: the settings or the data cannot be used.
    """
    if num_images < 1:
        raise ConfigError(f"--num_images {num_images}: must be at least 1")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--output {path}: must end in .png, .jpg or .webp")
    quiet_libraries()
    records = open_captioned(config)[0] if isinstance(config, TextToImageConfig) else open_records(config)
    page = draw_preview([records], num_images, config.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)

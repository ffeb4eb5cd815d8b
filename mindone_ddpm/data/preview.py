"""A look at the images before and after preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import quiet_libraries
from mindone_ddpm.data.grids import SMALLEST_CELL_PIXELS, make_grid
from mindone_ddpm.data.images import convert_channels
from mindone_ddpm.data.open import open_records
from mindone_ddpm.data.randomness import SAMPLE_STREAM, random_stream
from mindone_ddpm.jobs.text_to_image.captions import open_captioned
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig


def write_preview(config: TrainingConfig | TextToImageConfig, path: Path, num_images: int) -> None:
    """Write one picture: the first images of the run as they are stored, and below as the model will see them.

    Raises:
        ConfigError, DataError: the settings or the data cannot be used.
    """
    if num_images < 1:
        raise ConfigError(f"--num_images {num_images}: must be at least 1")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--output {path}: must end in .png, .jpg or .webp")
    quiet_libraries()
    records = open_captioned(config)[0] if isinstance(config, TextToImageConfig) else open_records(config)
    indices = records.order(config.seed, 0)[:num_images]
    generators = [random_stream(config.seed, SAMPLE_STREAM, place) for place in range(len(indices))]
    images = np.stack(
        [records.augmented_image(index, generator) for index, generator in zip(indices, generators, strict=True)]
    )
    seen = ((images + 1.0) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)

    cell = max(SMALLEST_CELL_PIXELS, config.image_size)
    originals = []
    for index in indices:
        fitted = ImageOps.contain(convert_channels(records.original(index), 3), (cell, cell))
        originals.append(np.asarray(ImageOps.pad(fitted, (cell, cell), color="white")))
    above, below = make_grid(np.stack(originals)), make_grid(seen).convert("RGB")
    page = Image.new("RGB", (max(above.width, below.width), above.height + below.height + 16), "grey")
    page.paste(above, (0, 0))
    page.paste(below, (0, above.height + 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)

"""A look at the images before and after preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mindone_ddpm.config import TrainingConfig
from mindone_ddpm.data import BatchSource, Plan, epoch_order, open_records
from mindone_ddpm.sampling import SMALLEST_CELL_PIXELS, make_grid
from mindone_ddpm.unconditional import UnconditionalJob


def write_preview(config: TrainingConfig, path: Path, num_images: int) -> None:
    """Write one picture: the first images of the run as they are stored, and below as the model will see them.

    Raises:
        DataProblem: the data cannot be used.
    """
    records = open_records(config)
    num_images = min(num_images, len(records))
    plan = Plan(config.seed, len(records), batch_size=num_images)
    source = BatchSource(plan, UnconditionalJob(config, records).make_batch, first=0, count=1)
    images = source[0][0]
    seen = ((images + 1.0) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)

    cell = max(SMALLEST_CELL_PIXELS, config.image_size)
    originals = []
    for index in epoch_order(config.seed, 0, len(records))[:num_images]:
        picture = records.original(index).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        fitted = ImageOps.contain(Image.alpha_composite(white, picture).convert("RGB"), (cell, cell))
        originals.append(np.asarray(ImageOps.pad(fitted, (cell, cell), color="white")))
    above, below = make_grid(np.stack(originals)), make_grid(seen).convert("RGB")
    page = Image.new("RGB", (max(above.width, below.width), above.height + below.height + 16), "grey")
    page.paste(above, (0, 0))
    page.paste(below, (0, above.height + 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)

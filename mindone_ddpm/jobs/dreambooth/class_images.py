"""Images of a subject's class, made by the pipeline itself before training, where the user has too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindone_ddpm.common.files import atomic_path, check_writable
from mindone_ddpm.data.images import IMAGE_ENDINGS
from mindone_ddpm.jobs.dreambooth.config import DreamBoothConfig
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.images import save_image
from mindone_ddpm.sampling.prompts import generate_from_prompts

NUM_STEPS = 50  # the default of diffusers' pipelines, with which the published scripts make theirs
GUIDANCE_SCALE = 7.5
MADE = "class-{number:05d}.png"


def missing_numbers(folder: Path, num_images: int) -> list[int]:
    """The numbers of the images to make, so that a folder holds ``num_images``. Those already made keep theirs."""
    if not folder.is_dir():
        return list(range(num_images))
    seen = (path for path in folder.rglob("*") if not path.name.startswith("."))  # such as what a kill has left
    images = [path for path in seen if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()]
    made = {MADE.format(number=number): number for number in range(num_images)}
    own = [path for path in images if path.name not in made]
    there = {made[path.name] for path in images if path.name in made}
    return [number for number in range(max(0, num_images - len(own))) if number not in there]


def make_class_images(config: DreamBoothConfig, runtime: Runtime, base: Any, size: int) -> None:
    """Make the images of the class that are missing; each rank makes its share, and waits for the others.

    Image ``n`` depends on the seed and ``n`` alone. Each is complete as soon as it is there, so that a run that was
    killed goes on where it was.

    Args:
        size: side of the images in pixels.

    Raises:
        ConfigError: the folder cannot be written into.
    """
    folder = Path(str(config.class_data_dir))
    numbers = distributed.broadcast_object(runtime, missing_numbers(folder, config.num_class_images))
    if not numbers:
        return
    check_writable(folder, "--class_data_dir")
    folder.mkdir(parents=True, exist_ok=True)
    distributed.barrier(runtime)
    own = numbers[runtime.rank :: runtime.world_size]
    with tqdm(total=len(numbers), desc="images of the class", unit="img", disable=not runtime.is_main) as bar:
        for start in range(0, len(own), config.sample_batch_size):
            batch = own[start : start + config.sample_batch_size]
            full = [*batch, *batch[-1:] * (config.sample_batch_size - len(batch))]  # another size would compile again
            values = generate_from_prompts(
                base,
                [str(config.class_prompt)] * len(full),
                sample_ids=full,
                batch_size=len(full),
                num_inference_steps=NUM_STEPS,
                guidance_scale=GUIDANCE_SCALE,
                seed=config.seed,
                height=size,
                width=size,
            )
            for number, image in zip(batch, values, strict=False):
                with atomic_path(folder / MADE.format(number=number)) as tmp_path:
                    save_image(image, tmp_path)
            done = min(len(numbers), (start + len(batch)) * runtime.world_size)
            bar.update(done - bar.n)
    distributed.barrier(runtime)

"""DreamBooth (Ruiz et al. 2023): teach Stable Diffusion a subject from a few images, by name.

With prior preservation each row holds an image of the subject and one of its class, which the pipeline made itself
before: the class keeps looking as it did.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.open import open_records
from mindone_ddpm.data.plan import check_batch_size
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.dreambooth.class_images import make_class_images, missing_numbers
from mindone_ddpm.jobs.dreambooth.config import DreamBoothConfig
from mindone_ddpm.jobs.text_to_image.buckets import add_buckets
from mindone_ddpm.jobs.text_to_image.captions import Captions, same_texts
from mindone_ddpm.jobs.text_to_image.job import FineTuneJob, Source, open_base, prepare_base
from mindone_ddpm.jobs.text_to_image.product import fine_tuned_product
from mindone_ddpm.jobs.text_to_image.trained import trained_parts
from mindone_ddpm.models.pipelines import XL_PIPELINE, is_xl, latent_factor, tokenizers
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime


class DreamBoothJob(FineTuneJob):
    """See :class:`mindone_ddpm.jobs.base.Job`."""

    @classmethod
    def open_data(cls, config: DreamBoothConfig) -> list[ImageRecords]:
        """The images of the subject."""
        return [add_buckets(config, open_records(config, channels=3, seed=config.seed))]

    @classmethod
    def open(cls, config: DreamBoothConfig, runtime: Runtime) -> DreamBoothJob:
        """
        Raises:
            ConfigError, DataError: the pipeline cannot be fine-tuned here, or the images cannot be used.
        """
        with distributed.main_first(runtime):
            (subject,) = cls.open_data(config)
        base = open_base(config)
        trained = trained_parts(base, config)
        size = size_of_pipeline(base, config.image_size)
        prepare_base(config, runtime, base)
        prompt = str(config.instance_prompt)
        sources = [Source(subject, captions_of(subject, prompt, base))]
        if config.with_prior_preservation:
            sources.append(open_class(config, runtime, base, size, subject))
        kind = XL_PIPELINE if is_xl(base) else "StableDiffusionPipeline"
        product = fine_tuned_product(config, "train_dreambooth", kind, prompt, ("dreambooth",))
        return cls(config, runtime, base, sources, trained, product)


def size_of_pipeline(base: Any, otherwise: int) -> int:
    """The side in pixels of the square images that a pipeline was made for; ``otherwise`` where it does not say."""
    latent_size = base.unet.config.sample_size
    return latent_size * latent_factor(base.vae) if isinstance(latent_size, int) else otherwise


def captions_of(records: ImageRecords, prompt: str, base: Any, remark: str = "") -> Captions:
    return Captions(same_texts([prompt], len(records), f"'{prompt}'{remark}"), *tokenizers(base))


def open_class(config: DreamBoothConfig, runtime: Runtime, base: Any, size: int, subject: ImageRecords) -> Source:
    """The images of the class, made before where they are missing; in a dry run, others in the place of those.

    Args:
        size: of the images that are made.
        subject: its images.
    """
    prompt, folder = str(config.class_prompt), Path(str(config.class_data_dir))
    # Before images are made: an epoch is as long as the larger of both.
    check_batch_size(config.train_batch_size, max(len(subject), config.num_class_images), runtime.world_size)
    missing = len(missing_numbers(folder, config.num_class_images))
    if runtime.makes_data:
        make_class_images(config, runtime, base, size)
    elif missing:
        places = [number % len(subject) for number in range(config.num_class_images)]
        planned = replace(subject, dataset=subject.dataset.select(places), buckets=None)
        return Source(
            planned, captions_of(planned, prompt, base, f" ({missing:,} are made first)"), config.prior_loss_weight
        )
    of_class = replace(
        config,
        dataset_name=None,
        dataset_config_name=None,
        train_data_dir=config.class_data_dir,
        image_column=None,
        max_train_samples=config.num_class_images,
    )
    try:
        with distributed.main_first(runtime):
            records = open_records(of_class, channels=3, seed=config.seed)
    except DataError as problem:
        raise DataError(f"--class_data_dir {folder}: {problem}") from problem
    return Source(records, captions_of(records, prompt, base), config.prior_loss_weight)

"""Aspect-ratio buckets of a fine-tuning: which size each image has, said before training."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.values import near_multiples
from mindone_ddpm.data.buckets import AspectBuckets, fill_buckets
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.text_to_image.config import FineTuneConfig


def add_buckets(config: FineTuneConfig, records: ImageRecords) -> ImageRecords:
    """The same records, in buckets where ``--aspect_buckets`` asks for them. Reads the head of every image."""
    if not config.aspect_buckets:
        return records
    numbers = tqdm(range(len(records)), desc="reading sizes", unit="img", disable=len(records) < 20_000, leave=False)
    records.buckets = fill_buckets(
        [records.stored_size(number) for number in numbers],
        config.image_size,
        config.bucket_step,
        config.max_aspect_ratio,
        config.max_buckets,
    )
    return records


def describe_buckets(buckets: AspectBuckets, groups: np.ndarray, batch_size: int) -> str:
    """For the plan: the sizes, how many rows of an epoch each has, and which have fewer than a batch.

    Args:
        groups: the bucket of each row of an epoch, a place in ``buckets.sizes``.
        batch_size: of all ranks together.
    """
    counts = np.bincount(groups, minlength=len(buckets.sizes))
    sizes = ", ".join(f"{size} ({count:,})" for size, count in zip(buckets.names(), counts, strict=True))
    compiled = "compiled once" if len(buckets.sizes) == 1 else f"{len(buckets.sizes)} graphs to compile"
    small = small_buckets(buckets, groups, batch_size)
    remark = f"; fewer than a batch of {batch_size}, so padded: {', '.join(small)}" if small else ""
    return f"{sizes}; {compiled}{remark}"


def small_buckets(buckets: AspectBuckets, groups: np.ndarray, batch_size: int) -> list[str]:
    """The sizes that have fewer rows than a batch of all ranks."""
    counts = np.bincount(groups, minlength=len(buckets.sizes))
    return [size for size, count in zip(buckets.names(), counts, strict=True) if count < batch_size]


def check_buckets(buckets: AspectBuckets, groups: np.ndarray, batch_size: int, drop_last: bool) -> None:
    """
    Raises:
        ConfigError: with ``drop_last`` images of some sizes would never be trained on.
    """
    small = small_buckets(buckets, groups, batch_size) if drop_last else []
    if small:
        raise ConfigError(
            f"--dataloader_drop_last: of the size {', '.join(small)} there are fewer images than a batch of "
            f"{batch_size}, and none would be trained on; leave the flag, or give fewer --max_buckets or a smaller "
            "--train_batch_size"
        )


def check_step(config: FineTuneConfig, divisor: int) -> None:
    """Raises ConfigError if the sides of buckets do not fit the networks. ``divisor``: of the sides, that they need."""
    if config.aspect_buckets and config.bucket_step % divisor:
        raise ConfigError(
            f"--bucket_step {config.bucket_step}: the autoencoder and the UNet of this pipeline need a multiple of "
            f"{divisor}, for example {near_multiples(config.bucket_step, divisor)}"
        )

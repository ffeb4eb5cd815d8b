"""From a configuration to image records: training images, labels, and held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mindone_ddpm.config.groups import BUILT_IN_DATASETS, EngineConfig
from mindone_ddpm.data.datasets import open_dataset
from mindone_ddpm.data.images import (
    DataError,
)
from mindone_ddpm.data.labels import Labels, find_labels
from mindone_ddpm.data.randomness import SPLIT_STREAM, random_stream
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.streaming import StreamedRecords, _stream_length
from mindone_ddpm.jobs.unconditional.config import TrainingConfig


def open_records(config: TrainingConfig) -> ImageRecords:
    """Find the data set, its images and, for a class-conditional model, its labels.

    With ``validation_split`` or ``validation_data_dir`` they have others beside them that are not trained on.

    Raises:
        DataError: see :func:`open_dataset`, :func:`find_labels`, :func:`split`.
    """
    dataset, column = open_dataset(config)
    labels = find_labels(dataset, config.label_column, config.streaming) if config.class_conditional else None
    records = make_records(config, dataset, column, config.channels, config.preserve_input_precision, labels)
    if config.validation_split:
        return split(records, config.validation_split)
    if config.validation_data_dir is not None:
        records.held_out = open_validation_folder(config, labels)
    return records


def split(records: ImageRecords, share: float) -> ImageRecords:
    """Put a share of the images aside: always the same ones, whatever the run's seed, so that runs compare.

    Raises:
        DataError: nothing would be left of one of the two.
    """
    count = round(len(records) * share)
    if not 0 < count < len(records):
        raise DataError(
            f"--validation_split {share:g}: puts {count} of {len(records)} images aside; both parts need some"
        )
    order = random_stream(0, SPLIT_STREAM).permutation(len(records))

    def part(indices: np.ndarray) -> ImageRecords:
        labels = records.labels
        if labels is not None and labels.numbers is not None:
            labels = replace(labels, numbers=labels.numbers[indices])
        return replace(records, dataset=records.dataset.select(indices), labels=labels)

    training = part(np.sort(order[count:]))
    training.held_out = part(np.sort(order[:count]))
    return training


def open_validation_folder(config: TrainingConfig, labels: Labels | None) -> ImageRecords:
    folder = config.validation_data_dir
    changes: dict[str, Any] = dict.fromkeys(
        ("dataset_name", "dataset_config_name", "validation_data_dir", "max_train_samples", "image_column")
    )
    try:
        held_out = open_records(replace(config, **changes, train_data_dir=folder, streaming=False))
    except DataError as problem:
        raise DataError(f"--validation_data_dir {folder}: {problem}") from problem
    if labels is not None and held_out.labels is not None and held_out.labels.names != labels.names:
        raise DataError(
            f"--validation_data_dir {folder}: its classes are {', '.join(held_out.labels.names)}, but those trained on "
            f"are {', '.join(labels.names)}"
        )
    return held_out


def make_records(
    config: EngineConfig,
    dataset: Any,
    column: str,
    channels: int,
    precise: bool = False,
    labels: Labels | None = None,
    other_columns: Sequence[str] = (),
) -> ImageRecords:
    """A data set's images as a configuration wants them cut, turned and cropped."""
    columns = [column, *other_columns, *([] if labels is None else [labels.column])]
    flip = config.random_flip if config.random_flip is not None else config.dataset_name not in BUILT_IN_DATASETS
    crop = config.resize_mode == "crop" or config.center_crop
    common: dict[str, Any] = {
        "dataset": dataset.select_columns(columns),
        "column": column,
        "size": config.image_size,
        "channels": channels,
        "resize_mode": "crop" if crop else "squash",
        "random_crop": crop and not config.center_crop,
        "random_flip": flip,
        "interpolation": config.image_interpolation_mode,
        "random_vertical_flip": config.random_vertical_flip,
        "precise": precise,
        "labels": labels,
    }
    if not config.streaming:
        return ImageRecords(**common)
    length = _stream_length(dataset, config)
    return StreamedRecords(**common, num_samples=length, seed=config.seed, buffer_size=config.streaming_buffer_size)

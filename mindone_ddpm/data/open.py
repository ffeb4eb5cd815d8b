"""From settings to image records: images, labels, held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mindone_ddpm.common.randomness import SPLIT_STREAM, random_stream
from mindone_ddpm.config.groups import BUILT_IN_DATASETS, DataConfig, LabelConfig
from mindone_ddpm.data.datasets import open_dataset
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.labels import Labels, find_labels
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.streaming import StreamedRecords, stream_length


def open_records(
    config: DataConfig,
    channels: int,
    *,
    labels: LabelConfig | None = None,
    precise: bool = False,
    seed: int = 0,
    validation_split: float = 0.0,
    validation_data_dir: str | None = None,
) -> ImageRecords:
    """Open a data set as images of one size.

    Args:
        channels: 1 grey, 3 RGB, 4 RGBA.
        labels: how to find classes; None, or ``class_conditional`` False: without classes.
        precise: do not round images to 8 bits.
        seed: of the shuffling of a stream.
        validation_split: share of the images that is held out, see :func:`hold_out`.
        validation_data_dir: folder of images to hold out instead.

    Raises:
        DataError: see :func:`open_dataset`, :func:`find_labels`, :func:`hold_out`; or the held-out images have other
            classes.
    """
    dataset, column = open_dataset(config)
    found = None
    if labels is not None and labels.class_conditional:
        found = find_labels(dataset, labels.label_column, config.streaming)
    records = make_records(config, dataset, column, channels, labels=found, precise=precise, seed=seed)
    if validation_split:
        return hold_out(records, validation_split)
    if validation_data_dir is not None:
        records.held_out = _open_validation_folder(config, validation_data_dir, records, labels)
    return records


def hold_out(records: ImageRecords, share: float) -> ImageRecords:
    """Hold out a share of the images: the same ones with every seed, so that runs can be compared.

    Returns:
        The other images, to train on; their ``held_out`` are the images held out.

    Raises:
        DataError: one of the two parts would be empty.
    """
    count = round(len(records) * share)
    if not 0 < count < len(records):
        raise DataError(
            f"--validation_split {share:g}: holds out {count} of {len(records)} images; both parts need some"
        )
    order = random_stream(0, SPLIT_STREAM).permutation(len(records))

    def part(indices: np.ndarray) -> ImageRecords:
        labels = records.labels
        if labels is not None and labels.class_ids is not None:
            labels = replace(labels, class_ids=labels.class_ids[indices])
        return replace(records, dataset=records.dataset.select(indices), labels=labels)

    training = part(np.sort(order[count:]))
    training.held_out = part(np.sort(order[:count]))
    return training


def _open_validation_folder(
    config: DataConfig, folder: str, training: ImageRecords, labels: LabelConfig | None
) -> ImageRecords:
    """The images of a folder, prepared like those that are trained on."""
    config = replace(
        config,
        dataset_name=None,
        dataset_config_name=None,
        train_data_dir=folder,
        image_column=None,
        max_train_samples=None,
        streaming=False,
    )
    try:
        held_out = open_records(config, training.channels, labels=labels, precise=training.precise)
    except DataError as problem:
        raise DataError(f"--validation_data_dir {folder}: {problem}") from problem
    ours, theirs = training.labels, held_out.labels
    if ours is not None and theirs is not None and theirs.names != ours.names:
        raise DataError(
            f"--validation_data_dir {folder}: its classes are {', '.join(theirs.names)}, but those trained on are "
            f"{', '.join(ours.names)}"
        )
    return held_out


def make_records(
    config: DataConfig,
    dataset: Any,
    column: str,
    channels: int,
    *,
    labels: Labels | None = None,
    precise: bool = False,
    other_columns: Sequence[str] = (),
    seed: int = 0,
) -> ImageRecords:
    """The images of an open data set, resized, cropped and flipped as the settings say.

    Args:
        dataset, column: of :func:`open_dataset`.
        other_columns: columns to keep beside the images and labels.
        seed: of the shuffling of a stream.
    """
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
        "max_pixels": config.max_image_pixels,
    }
    if not config.streaming:
        return ImageRecords(**common)
    length = stream_length(dataset, config)
    return StreamedRecords(**common, num_samples=length, seed=seed, buffer_size=config.streaming_buffer_size)

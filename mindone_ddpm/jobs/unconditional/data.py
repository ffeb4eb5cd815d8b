"""The images of the unconditional job."""

from __future__ import annotations

from mindone_ddpm.data import open as data_open
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.unconditional.config import TrainingConfig


def open_records(config: TrainingConfig) -> ImageRecords:
    """The images to train on, with labels and held-out images where the settings ask for them.

    Raises:
        DataError: see :func:`mindone_ddpm.data.open.open_records`.
    """
    return data_open.open_records(
        config,
        config.channels,
        labels=config,
        precise=config.preserve_input_precision,
        seed=config.seed,
        validation_split=config.validation_split,
        validation_data_dir=config.validation_data_dir,
    )

"""Settings and batches of small data sets, for tests."""

from __future__ import annotations

from dataclasses import replace

from conftest import cpu_runtime

from mindone_ddpm.data.loader import BatchSource
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.job import UnconditionalJob


def folder_config(folder, **values) -> TrainingConfig:
    return TrainingConfig(
        train_data_dir=str(folder), **{"image_size": 16, "cache_dir": str(folder) + "-cache", **values}
    )


def digits_config(**values) -> TrainingConfig:
    return TrainingConfig(dataset_name="digits", **{"image_size": 8, "channels": 1, **values})


def make_job(config) -> UnconditionalJob:
    return UnconditionalJob.open(replace(config, preset="tiny", mixed_precision="no"), cpu_runtime())


def make_source(config, plan, first=0, count=None) -> BatchSource:
    job = make_job(config)
    return BatchSource(plan, job.make_batch, job.columns, first, count or 2 * plan.batches_per_epoch, job.records.order)

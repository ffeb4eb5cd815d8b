"""Evaluation from Python, for a notebook.

evaluate(pipe, real="digits", metrics=["kid"])
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from typing import Any

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.config.groups import BUILT_IN_DATASETS
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.evaluation.measure import measure
from mindone_ddpm.models.pipelines import load_unconditional
from mindone_ddpm.runtime.start import start_once

LOADED = "a loaded pipeline"


def evaluate(
    model: Any,
    real: str | PathLike[str],
    *,
    metrics: str | Sequence[str] = ("fid", "kid"),
    num_samples: int | None = None,
    features: str | None = None,
    inception_weights: str | None = None,
    scheduler: str | None = None,
    num_inference_steps: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    class_label: str | int | None = None,
    guidance_scale: float | None = None,
    resize_mode: str = "squash",
    max_real_images: int | None = None,
    force: bool = False,
    device: str = "auto",
    mode: str | None = None,
    hub: str = HUGGINGFACE,
) -> dict[str, float]:
    """Measure a model against real images. The arguments mean what the flags of ``mindone-ddpm evaluate`` mean.

    Args:
        model: a DDPMPipeline that ``load`` returned, or the folder or the hub's name of one.
        real: the real images: ``digits``, a folder, or a data set's name on the hub; resized as in training.
        metrics: of ``fid``, ``kid``, ``precision_recall`` and ``inception_score``.
        num_samples: generated images; 10,000 if not given.
        features: ``inception`` or ``digits``; by default digits for the data set of that name, else inception.
        inception_weights: safetensors file with the FID literature's Inception-v3.
        max_real_images: use only the first N real images.
        force: compute a FID from too few images.
        device, mode, hub: as for ``load``.

    Returns:
        The metrics by the names that they have in ``metrics.json``. Nothing is written but the statistics of the real
        images, in the user's cache folder.

    Raises:
        ConfigError, DataError, MetricError, DeviceError: what cannot be used; names an argument by its flag.
    """
    is_built_in = str(real) in BUILT_IN_DATASETS  # also where a folder has its name, such as the quickstart's run
    is_folder = not is_built_in and os.path.isdir(real)
    is_loaded = hasattr(model, "unet")
    config = EvaluateConfig(
        model=LOADED if is_loaded else str(model),
        metrics=metrics if isinstance(metrics, str) else ",".join(metrics),
        num_samples=num_samples,
        features=features or ("digits" if is_built_in else "inception"),
        inception_weights=inception_weights,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        seed=seed,
        class_label=None if class_label is None else str(class_label),
        guidance_scale=guidance_scale,
        dataset_name=None if is_folder else str(real),
        train_data_dir=str(real) if is_folder else None,
        resize_mode=resize_mode,
        max_train_samples=max_real_images,
        force=force,
        hub=hub,
    )
    config.check()
    runtime = start_once(device, mode)
    pipeline = model if is_loaded else load_unconditional(str(model), hub=hub)
    if type(pipeline.unet).__name__ != "UNet2DModel":
        raise ConfigError("model: only unconditional and class-conditional pipelines can be measured")
    return measure(config, runtime, pipeline).metrics

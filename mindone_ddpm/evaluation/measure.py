"""Metrics of a model or of a folder of images: the code that the evaluate command and ``evaluate`` in Python share."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import sha256_of
from mindone_ddpm.config.groups import DataConfig
from mindone_ddpm.data.open import open_records
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.collector import StatisticsCollector, cached_statistics
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.evaluation.copies import CopyCheck, check_copies
from mindone_ddpm.evaluation.feature_networks import make_features
from mindone_ddpm.evaluation.features import FeatureNetwork
from mindone_ddpm.evaluation.image_sources import ImageFolder, ImageSource, generated_images, record_images
from mindone_ddpm.evaluation.statistics import NO_FEATURES, Statistics, load_statistics, save_statistics
from mindone_ddpm.models import pipelines, schedulers
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.from_config import class_guidance, inference_steps
from mindone_ddpm.sampling.generate import choose_labels, image_shape

if TYPE_CHECKING:
    from mindone.diffusers import DDPMPipeline

DEFAULT_NUM_SAMPLES = 10_000
# Settings of the real images that are those of training.
REAL_SETTINGS = (
    *("hub", "dataset_name", "dataset_config_name", "dataset_split", "train_data_dir", "image_column"),
    *("max_train_samples", "resize_mode", "image_interpolation_mode"),
)


@dataclass
class Measured:
    """The metrics by the names that they have in ``metrics.json``, and what they were computed from."""

    metrics: dict[str, float]
    real: Statistics | None
    fake: Statistics
    network: FeatureNetwork
    sampler: dict[str, Any]  # what decides the images of a model beside the model; empty for a folder
    seconds: float
    source: ImageSource  # of the images that were measured
    real_source: ImageSource | None
    copies: CopyCheck | None = None


def measure(
    config: EvaluateConfig,
    runtime: Runtime,
    pipeline: pipelines.Unconditional | DDPMPipeline | None,
    partial: Path | None = None,
) -> Measured:
    """Compute the metrics of a pipeline, or of the folder ``config.fake``.

    Args:
        config: checked by itself.
        pipeline: None where there is a folder.
        partial: a file in which the statistics of an interrupted measurement are kept; None: nowhere.

    Raises:
        ConfigError, DataError, MetricError: what cannot be used, before the long part where possible.
    """
    of_metrics = config.metrics.split(",")
    wanted = [*of_metrics, *(["copies"] if config.copies else [])]
    network = make_features(config.features, config.inception_weights, config.resize, config.hub)
    sampler: dict[str, Any] = {}
    if pipeline is None:
        assert config.fake is not None
        folder = ImageFolder(config.fake, "--fake")
        metrics.check_count(wanted, len(folder), network.width, config.force)
        source: ImageSource = folder
        count, content, text = len(folder), folder.content, "images"
    else:
        count, content, text = config.num_samples or DEFAULT_NUM_SAMPLES, content_of_model(config.model), "model images"
        metrics.check_count(wanted, count, network.width, config.force)
        source, sampler = model_source(config, pipeline, count)
    unet = None if pipeline is None else pipeline.unet
    real, real_source = real_statistics(config, network, wanted, runtime, unet)
    if real is not None:
        metrics.check_count(wanted, real.count, network.width, config.force)
    if partial is not None:
        partial.parent.mkdir(parents=True, exist_ok=True)
    # What must be the same for an interrupted measurement to be continued.
    facts = [content, sampler, count, config.batch_size, config.metrics, config.keep_features, network.identity]
    collector = StatisticsCollector(network, wanted, config.keep_features, partial, json.dumps(facts))
    started = time.perf_counter()
    fake = collector.run(source, count, config.batch_size, runtime, text)
    seconds = time.perf_counter() - started
    found = metrics.compute_metrics(of_metrics, real, fake, config.force, config.seed)
    named = {metrics.metric_name(name, network.prefix): value for name, value in found.items()}
    copies = None
    if config.copies and real is not None:
        copies = check_copies(fake.rows(), real.rows(), held_out_rows(config, network, runtime, unet))
        named["suspicious_share"] = copies.share
    return Measured(named, real, fake, network, sampler, seconds, source, real_source, copies)


def held_out_rows(config: EvaluateConfig, network: FeatureNetwork, runtime: Runtime, unet: Any) -> np.ndarray | None:
    """The features of the images of ``held_out``; None without."""
    if config.held_out is None:
        return None
    of_folder = replace(
        config,
        train_data_dir=config.held_out,
        dataset_name=None,
        dataset_config_name=None,
        image_column=None,
        max_train_samples=None,
    )
    with distributed.main_first(runtime):
        records = real_records(of_folder, unet)
    source, count, what = record_images(records)
    return cached_statistics(network, ["copies"], source, count, what, config.batch_size, runtime).rows()


def model_source(
    config: EvaluateConfig, pipeline: pipelines.Unconditional | DDPMPipeline, count: int
) -> tuple[ImageSource, dict[str, Any]]:
    """The images of a model, and all that decides them beside the model."""
    sampler = config.scheduler or schedulers.metrics_sampler(pipeline.scheduler)
    scheduler = schedulers.make_sampler(sampler, pipeline.scheduler)
    labels = choose_labels(pipeline.unet, config.class_label, count)
    settings = {
        "num_inference_steps": inference_steps(config, sampler, scheduler),
        "seed": config.seed,
        "guidance_scale": class_guidance(config, labels),
        "eta": config.eta,
    }
    source = generated_images(pipeline.unet, scheduler, labels, config.batch_size, **settings)
    return source, {"scheduler": sampler, **settings, "class_label": config.class_label}


def content_of_model(model: str) -> str:
    """The hash of its UNet's weights; for a name on the Hub, the name."""
    weights = Path(model) / "unet" / pipelines.UNET_WEIGHTS
    return sha256_of(weights) if weights.is_file() else model


def real_records(config: EvaluateConfig, unet: Any) -> ImageRecords:
    """The data set of real images, resized to the model's size."""
    channels, size, _ = image_shape(unet)
    settings = {name: getattr(config, name) for name in REAL_SETTINGS}
    # Where images are cropped, their middle is used, of those in training too.
    settings["center_crop"] = config.resize_mode == "crop"
    return open_records(DataConfig(**settings, image_size=size), channels)


def real_statistics(
    config: EvaluateConfig, network: FeatureNetwork, wanted: list[str], runtime: Runtime, unet: Any
) -> tuple[Statistics | None, ImageSource | None]:
    """Of the real images: from a file, from the cache, or collected; and the images. None where there are none.

    Args:
        unet: of the model that is measured; None where a folder is.
    """
    if config.real_statistics is not None:
        return read_real_statistics(config.real_statistics, network, wanted), None
    if config.real is not None:
        folder = ImageFolder(config.real, "--real")
        source: ImageSource = folder
        count, what = len(folder), f"folder {folder.content}"
    elif config.dataset_name is not None or config.train_data_dir is not None:
        with distributed.main_first(runtime):
            records = real_records(config, unet)
        source, count, what = record_images(records)
    else:
        return None, None
    statistics = cached_statistics(network, wanted, source, count, what, config.batch_size, runtime)
    if config.save_real_statistics is not None and runtime.is_main:
        about = {"network": network.identity, "what": what}
        save_statistics(statistics, about, Path(config.save_real_statistics))
    return statistics, source


def read_real_statistics(path: str, network: FeatureNetwork, wanted: list[str]) -> Statistics:
    """Raises ConfigError, MetricError if a file does not hold the statistics that these metrics need."""
    statistics, about = load_statistics(Path(path))
    if about.get("network") != network.identity:
        raise ConfigError(
            f"--real_statistics {path}: are of {about.get('network', 'another network')}, "
            f"but the features here are of {network.identity}"
        )
    if metrics.need_features(wanted) and not statistics.keeps_features:
        raise ConfigError(f"--real_statistics {path}: {NO_FEATURES}")
    return statistics

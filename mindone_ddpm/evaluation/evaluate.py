"""Measure a model, or a folder of pictures, against real pictures: sample, look, gather, merge, compare."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.common import files
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import check_writable
from mindone_ddpm.common.libraries import versions
from mindone_ddpm.config.groups import DataConfig
from mindone_ddpm.data.open import open_records
from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.evaluation.feature_networks import make_features
from mindone_ddpm.evaluation.features import FeatureNetwork
from mindone_ddpm.evaluation.metrics import Statistics, load_statistics, save_statistics
from mindone_ddpm.evaluation.statistics import (
    Folder,
    Gathering,
    Source,
    kept_statistics,
    name_figures,
    sampled,
    source_of,
)
from mindone_ddpm.models import pipelines, schedulers
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime, start
from mindone_ddpm.sampling import generate
from mindone_ddpm.sampling.from_config import class_guidance, inference_steps

METRICS_FILE, FEATURES_FILE = "metrics.json", "features.npz"


DEFAULT_NUM_SAMPLES = 10_000


def real_records(config: EvaluateConfig, unet: Any) -> Any:
    """The data set of real pictures, made as large as the model's."""
    channels, size, _ = generate.image_shape(unet)
    names = [
        *("dataset_name", "dataset_config_name", "dataset_split", "train_data_dir", "image_column"),
        *("max_train_samples", "resize_mode", "image_interpolation_mode"),
    ]
    settings = {name: getattr(config, name) for name in names}
    # Where they are cut, it is their middle that is looked at, in training too.
    settings["center_crop"] = config.resize_mode == "crop"
    return open_records(DataConfig(**settings, image_size=size), channels)


def real_statistics(
    config: EvaluateConfig, network: FeatureNetwork, wanted: list[str], runtime: Runtime, unet: Any
) -> Statistics | None:
    """Of the real pictures: from a file, from the cache, or by looking at them."""
    if config.real_statistics is not None:
        statistics, about = load_statistics(Path(config.real_statistics))
        if about.get("network") != network.identity:
            raise ConfigError(
                f"--real_statistics {config.real_statistics}: are of {about.get('network', 'another network')}, "
                f"but the features here are of {network.identity}"
            )
        if metrics.keeps_features(wanted) and not statistics.keeps_features:
            raise ConfigError(f"--real_statistics {config.real_statistics}: {metrics.NO_FEATURES}")
        return statistics
    if config.real is not None:
        folder = Folder(config.real, "--real")
        source: Source = folder
        count, what = len(folder), f"folder {folder.content}"
    elif config.dataset_name is not None or config.train_data_dir is not None:
        with distributed.main_first(runtime):
            records = real_records(config, unet)
        source, count, what = source_of(records)
    else:
        return None
    statistics = kept_statistics(network, wanted, source, count, what, config.batch_size, runtime)
    if config.save_real_statistics is not None and runtime.is_main:
        about = {"network": network.identity, "what": what}
        save_statistics(statistics, about, Path(config.save_real_statistics))
    return statistics


@dataclass
class Measured:
    """The metrics by name, and what they were computed from."""

    metrics: dict[str, float]
    real: Statistics | None
    fake: Statistics
    network: FeatureNetwork
    sampler: dict[str, Any]
    seconds: float


def measure(config: EvaluateConfig, runtime: Runtime, pipeline: Any, partial: Path | None) -> Measured:
    """Compute the metrics of a pipeline, or of the folder ``config.fake``.

    Args:
        pipeline: None where there is a folder.
        partial: a file in which the statistics of an interrupted measurement are kept; None: nowhere.

    Raises:
        ConfigError, DataError, MetricError: what cannot be used, before the long part where possible.
    """
    wanted = config.metrics.split(",")
    network = make_features(config.features, config.inception_weights, config.resize)
    folder = Folder(config.fake, "--fake") if config.fake is not None else None
    count = len(folder) if folder is not None else config.num_samples or DEFAULT_NUM_SAMPLES
    metrics.check_count(wanted, count, network.width, config.force)
    sampler: dict[str, Any] = {}
    if folder is not None:
        source: Source = folder
        content = folder.content
    else:
        source, sampler = model_source(config, pipeline, count)
        content = content_of_model(config.model)
    real = real_statistics(config, network, wanted, runtime, None if pipeline is None else pipeline.unet)
    if real is not None:
        metrics.check_count(wanted, real.count, network.width, config.force)
    if partial is not None:
        partial.parent.mkdir(parents=True, exist_ok=True)
    # What must be the same for an interrupted measurement to be continued.
    facts = [content, sampler, count, config.batch_size, config.metrics, config.keep_features, network.identity]
    gathering = Gathering(network, wanted, config.keep_features, partial, json.dumps(facts))
    started = time.perf_counter()
    text = "images" if pipeline is None else "images of the model"
    fake = gathering.run(source, count, config.batch_size, runtime, text)
    seconds = time.perf_counter() - started
    found = name_figures(network, metrics.figures(wanted, real, fake, config.force, config.seed))
    return Measured(found, real, fake, network, sampler, seconds)


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Measure; the metrics by name, which are also written to ``metrics.json`` in the output folder.

    Raises:
        ConfigError, DataError, MetricError, DeviceError: what cannot be used, before the long part where possible.
    """
    config.check()
    output_dir = Path(config.output_dir)
    check_writable(output_dir)
    runtime = start(config.device, config.mode, config.seed)
    pipeline = pipelines.load_pipeline(config.model) if config.model else None
    partial = output_dir / f".statistics-{runtime.rank}-of-{runtime.world_size}.npz"
    measured = measure(config, runtime, pipeline, partial)
    if runtime.is_main:
        write_metrics(config, measured, output_dir)
        if config.keep_features:
            np.savez(output_dir / FEATURES_FILE, features=measured.fake.rows())
    distributed.barrier(runtime)
    partial.unlink(missing_ok=True)
    return measured.metrics


def model_source(config: EvaluateConfig, pipeline: Any, count: int) -> tuple[Source, dict[str, Any]]:
    """The pictures of a model; and all that they follow from, beside the model."""
    scheduler = schedulers.make_sampler(config.scheduler, pipeline.scheduler)
    labels = generate.choose_labels(pipeline.unet, config.class_label, count)
    settings = {
        "num_inference_steps": inference_steps(config, config.scheduler, scheduler),
        "seed": config.seed,
        "guidance_scale": class_guidance(config, labels),
        "eta": config.eta,
    }
    source = sampled(pipeline.unet, scheduler, labels, config.batch_size, **settings)
    return source, {"scheduler": config.scheduler, **settings, "class_label": config.class_label}


def content_of_model(model: str) -> str:
    """The hash of its UNet's weights; of a name on the Hub, the name."""
    weights = Path(model) / "unet" / pipelines.UNET_WEIGHTS
    return files.sha256_of(weights) if weights.is_file() else model


def write_metrics(config: EvaluateConfig, measured: Measured, output_dir: Path) -> None:
    """Write the metrics with all that is needed to compute them again."""
    real, fake = measured.real, measured.fake
    of_data_set = ("dataset_config_name", "dataset_split", "image_column", "max_train_samples", "resize_mode")
    preparation = {name: getattr(config, name) for name in (*of_data_set, "image_interpolation_mode")}
    about = {
        "metrics": measured.metrics,
        "num_samples": fake.count,
        "num_real": None if real is None else real.count,
        "model": config.model or None,
        "fake": config.fake,
        "real": config.real or config.dataset_name or config.train_data_dir or config.real_statistics,
        "real_preparation": preparation if config.dataset_name or config.train_data_dir else None,
        "sampler": measured.sampler or None,
        "features": measured.network.identity,
        "forced": config.force,
        "seconds": round(measured.seconds, 1),
        "versions": versions(),
    }
    files.write_text(output_dir / METRICS_FILE, json.dumps(about, indent=2) + "\n")
    fewest = fake.count if real is None else min(real.count, fake.count)
    if config.force and "fid" in config.metrics.split(",") and fewest <= measured.network.width:
        print(
            f"warning: fid of {fewest} images for features of width {measured.network.width}: far too high; "
            "compare it with nothing",
            file=sys.stderr,
        )


def show(found: dict[str, float]) -> str:
    """The figures as a table for a person; a spread stands behind its figure."""
    rows = []
    for name, value in found.items():
        if not name.endswith("_std"):
            spread = f" ± {found[name + '_std']:.5g}" if name + "_std" in found else ""
            rows.append((name, f"{value:.6g}{spread}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

"""The command evaluate: from a configuration to ``metrics.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from mindone_ddpm.common.files import atomic_path, check_writable, write_text
from mindone_ddpm.common.libraries import versions
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.evaluation.copies import describe, write_copies
from mindone_ddpm.evaluation.measure import Measured, measure
from mindone_ddpm.models.pipelines import load_unconditional
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import start

METRICS_FILE, FEATURES_FILE = "metrics.json", "features.npz"
REAL_PREPARATION = (
    *("dataset_config_name", "dataset_split", "image_column", "max_train_samples", "resize_mode"),
    "image_interpolation_mode",
)


def evaluate_to_folder(config: EvaluateConfig) -> dict[str, float]:
    """Measure; the metrics by name, which are also written to ``metrics.json`` in the output folder.

    Raises:
        ConfigError, DataError, MetricError, DeviceError: what cannot be used, before the long part where possible.
    """
    config.check()
    output_dir = Path(config.output_dir)
    check_writable(output_dir)
    runtime = start(config.device, config.mode, config.seed, jit_level=config.jit_level)
    pipeline = load_unconditional(config.model, hub=config.hub) if config.model else None
    partial = output_dir / f".statistics-{runtime.rank}-of-{runtime.world_size}.npz"
    measured = measure(config, runtime, pipeline, partial)
    if runtime.is_main:
        write_metrics(config, measured, output_dir)
        if config.keep_features:
            with atomic_path(output_dir / FEATURES_FILE) as tmp_path:
                np.savez(tmp_path, features=measured.fake.rows())
        if measured.copies is not None and measured.real_source is not None:
            write_copies(measured.copies, measured.source, measured.real_source, output_dir, config.batch_size)
            print(describe(measured.copies))
    distributed.barrier(runtime)
    partial.unlink(missing_ok=True)
    return measured.metrics


def write_metrics(config: EvaluateConfig, measured: Measured, output_dir: Path) -> None:
    """Write the metrics with all that is needed to compute them again."""
    real, fake, width = measured.real, measured.fake, measured.network.width
    is_prepared = config.dataset_name is not None or config.train_data_dir is not None
    about = {
        "metrics": measured.metrics,
        "num_samples": fake.count,
        "num_real": None if real is None else real.count,
        "model": config.model or None,
        "fake": config.fake,
        "real": config.real or config.dataset_name or config.train_data_dir or config.real_statistics,
        "real_preparation": {name: getattr(config, name) for name in REAL_PREPARATION} if is_prepared else None,
        "sampler": measured.sampler or None,
        "features": measured.network.identity,
        "forced": config.force,
        "seconds": round(measured.seconds, 1),
        "versions": versions(),
    }
    write_text(output_dir / METRICS_FILE, json.dumps(about, indent=2) + "\n")
    fewest = fake.count if real is None else min(real.count, fake.count)
    if config.force and "fid" in config.metrics.split(",") and fewest <= width:
        print(
            f"warning: fid of {fewest} images for features of width {width}: far too high; compare it with nothing",
            file=sys.stderr,
        )


def format_table(found: dict[str, float]) -> str:
    """The metrics as a table for a person, with standard deviations where there are any."""
    rows = []
    for name, value in found.items():
        if not name.endswith("_std"):
            spread = f" ± {found[name + '_std']:.5g}" if name + "_std" in found else ""
            rows.append((name, f"{value:.6g}{spread}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

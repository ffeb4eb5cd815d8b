"""The command average: from a run's snapshots to a pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.averages.config import AverageConfig
from mindone_ddpm.averages.snapshots import FOLDER, Snapshots
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import added_files, check_writable, irregular_in, load_safetensors, save_safetensors
from mindone_ddpm.config.groups import HIGHER_IS_BETTER
from mindone_ddpm.evaluation.config import EvaluateConfig, metric_that_gives
from mindone_ddpm.models.foreign import PIPELINE_INDEX, part_names, read_json

AVERAGE_RECORD = "average.json"


def average(run: Path, config: AverageConfig) -> Path:
    """Write the pipeline with the average that is asked for; its folder.

    Raises:
        ConfigError: the run has no snapshots or no pipeline, or the folder cannot be used.
    """
    config.check()
    snapshots = Snapshots(run, config.step)
    if not (run / PIPELINE_INDEX).is_file():
        raise ConfigError(f"{run}: holds no pipeline to take all but the weights from; let the training end")
    output_dir = folder_of(run, config)
    check_writable(output_dir)
    if (output_dir / PIPELINE_INDEX).exists():
        raise ConfigError(f"--output_dir {output_dir}: already holds a pipeline; give another folder")
    if config.width is not None:
        write_average(run, snapshots, config.width, output_dir)
        return output_dir
    return write_best(run, snapshots, config, output_dir)


def folder_of(run: Path, config: AverageConfig) -> Path:
    if config.output_dir:
        return Path(config.output_dir)
    return run / (f"average-{config.width:.3f}" if config.width is not None else f"average-best-{config.best}")


def write_average(
    run: Path, snapshots: Snapshots, width: float, output_dir: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Copy a run's pipeline with other weights, and write what they are into ``average.json``."""
    index = read_json(run / PIPELINE_INDEX, "run", str(run))
    parts = [name for name in part_names(index) if (run / name).is_dir()]
    odd = next(filter(None, map(irregular_in, [run / FOLDER, *(run / part for part in parts)])), None)
    if odd is not None:
        raise ConfigError(f"{run}: {odd.relative_to(run)} is neither a file nor a folder")
    about = {"width": width, "step": snapshots.step, "snapshots": len(snapshots.kept) // 2, **(more or {})}
    with added_files(output_dir, last=PIPELINE_INDEX) as tmp_path:
        for part in parts:
            shutil.copytree(run / part, tmp_path / part)
        for network in set(snapshots.networks()) & set(parts):  # others serve training alone
            replace_weights(tmp_path / network, snapshots.average(width, network), run)
        (tmp_path / AVERAGE_RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        shutil.copy(run / PIPELINE_INDEX, tmp_path / PIPELINE_INDEX)


def replace_weights(folder: Path, weights: Mapping[str, np.ndarray], run: Path) -> None:
    """Replace the weights of a network's file. Raises ConfigError if they are not those of this network."""
    paths = list(folder.glob("*.safetensors"))
    if len(paths) != 1:
        raise ConfigError(f"{run}: its {folder.name} has {len(paths)} files of weights; one is needed")
    saved = load_safetensors(paths[0])
    if {name: array.shape for name, array in saved.items()} != {name: array.shape for name, array in weights.items()}:
        raise ConfigError(f"{run}: its snapshots are not of the {folder.name} that it holds")
    arrays = {name: array.astype(saved[name].dtype) for name, array in weights.items()}
    save_safetensors(arrays, paths[0], metadata={"format": "pt"})


def write_best(run: Path, snapshots: Snapshots, config: AverageConfig, output_dir: Path) -> Path:
    """Try several widths, and keep the pipeline of the best; prints a line for each."""
    from mindone_ddpm.evaluation.measure import measure
    from mindone_ddpm.evaluation.metrics import metric_name
    from mindone_ddpm.models.pipelines import load_unconditional
    from mindone_ddpm.runtime.start import start

    assert config.best is not None
    settings = evaluation_settings(run, config, output_dir)
    settings.check()
    runtime = start(config.device, config.mode, config.seed, alone=True)
    values: dict[float, float] = {}
    for width in config.widths_to_try():
        trial = output_dir / ".trial"
        shutil.rmtree(trial, ignore_errors=True)
        write_average(run, snapshots, width, trial)
        measured = measure(settings, runtime, load_unconditional(str(trial)))
        values[width] = measured.metrics[metric_name(config.best, measured.network.prefix)]
        print(f"width {width:g}: {config.best} {values[width]:.5g}")
        shutil.rmtree(trial, ignore_errors=True)
    best = (max if HIGHER_IS_BETTER[config.best] else min)(values, key=values.__getitem__)
    tried = {f"{width:g}": value for width, value in values.items()}
    write_average(run, snapshots, best, output_dir, {"metric": config.best, "tried": tried})
    return output_dir


def evaluation_settings(run: Path, config: AverageConfig, output_dir: Path) -> EvaluateConfig:
    """How to measure, from the settings that the run has recorded."""
    from mindone_ddpm.evaluation.measure import REAL_SETTINGS
    from mindone_ddpm.output.report import read_settings
    from mindone_ddpm.output.run_folder import RUN_CONFIG

    recorded = read_settings(run)
    if not recorded:
        raise ConfigError(f"{run}: has no {RUN_CONFIG}, which says what images to measure against")
    data = {name: recorded[name] for name in REAL_SETTINGS if recorded.get(name) is not None}
    return EvaluateConfig(
        model=str(output_dir / ".trial"),
        metrics=metric_that_gives(str(config.best)),
        num_samples=config.num_samples,
        features=config.features,
        inception_weights=config.inception_weights,
        batch_size=config.batch_size,
        seed=config.seed,
        **data,
    )

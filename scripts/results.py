#!/usr/bin/env python3
"""Train the recipes of docs/results.md here and in PyTorch, with the same model, budget and seeds, and compare.

    python scripts/results.py digits --folder results           1,617 digits at 8x8, 600 steps
    python scripts/results.py photographs --folder results      1,200 cuts of two photographs at 16x16, 2,000 steps

Both sides read the same PNG files. All pipelines are measured here, by the same commands: `mindone-ddpm evaluate`, and
the loss on held-out images. A run that has ended is not made again, so an interrupted one goes on.
Needs scripts/peer.sh to have been run, or PEER_PYTHON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# As it was before this package prepares its own for MindSpore: a limit on oneDNN's instructions would slow PyTorch.
ENVIRONMENT = dict(os.environ)
sys.path.insert(0, str(ROOT))
WARMUP_STEPS, LEARNING_RATE = 100, 1e-3
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"size": 8, "channels": 1, "batch_size": 64, "steps": 600, "random_flip": False},
    "photographs": {"size": 16, "channels": 3, "batch_size": 16, "steps": 2000, "random_flip": True},
}
# What is changed against the published script's defaults, by the name of the row.
VARIANTS: dict[str, dict[str, list[str]]] = {
    "digits": {
        "here": ["--use_ema"],
        "here, no average": [],
        "here, Min-SNR 5": ["--use_ema", "--snr_gamma", "5"],
        "here, classes": ["--use_ema", "--class_conditional"],
        "here, squared cosine": ["--use_ema", "--ddpm_beta_schedule", "squaredcos_cap_v2"],
        "here, last batch dropped": ["--use_ema", "--dataloader_drop_last"],
    },
    "photographs": {"here": ["--use_ema"]},
}


# --- data ----------------------------------------------------------------------------------------------------------


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    for number, pixels in enumerate(images):
        place = folder if labels is None else folder / str(labels[number])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze()).save(place / f"{number:04d}.png")


def make_digits(folder: Path) -> None:
    """The built-in digits; every tenth is held out."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images / 16 * 255).round().astype(np.uint8)
    is_held_out = np.arange(len(pixels)) % 10 == 0
    write_images(folder / "training", pixels[~is_held_out], None)
    write_images(folder / "training-classes", pixels[~is_held_out], digits.target[~is_held_out])
    write_images(folder / "held-out", pixels[is_held_out], None)
    write_images(folder / "held-out-classes", pixels[is_held_out], digits.target[is_held_out])


def make_photographs(folder: Path) -> None:
    """Cuts of scikit-learn's two photographs at a third of their size; their last quarter is held out."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(0)
    training, held_out = [], []
    for photograph in load_sample_images().images:
        image = Image.fromarray(photograph)
        pixels = np.asarray(image.resize((image.width // 3, image.height // 3), Image.Resampling.LANCZOS))
        border = pixels.shape[1] * 3 // 4
        for part, cuts, count in ((pixels[:, :border], training, 600), (pixels[:, border:], held_out, 100)):
            for _ in range(count):
                y, x = (generator.integers(0, length - 16 + 1) for length in part.shape[:2])
                cuts.append(part[y : y + 16, x : x + 16])
    write_images(folder / "training", np.stack(training), None)
    write_images(folder / "held-out", np.stack(held_out), None)


# --- runs ----------------------------------------------------------------------------------------------------------


def model_settings(recipe: dict[str, Any]) -> dict[str, Any]:
    from mindone_ddpm.models.presets import UNET_PRESETS

    sizes = {"sample_size": recipe["size"], "in_channels": recipe["channels"], "out_channels": recipe["channels"]}
    return {**UNET_PRESETS["tiny"], **sizes}


def train_here(recipe: dict[str, Any], data: Path, folder: Path, seed: int, flags: list[str]) -> None:
    suffix = "-classes" if "--class_conditional" in flags else ""
    command = [
        *(sys.executable, ROOT / "examples" / "unconditional" / "train_unconditional.py", "--preset", "tiny"),
        *("--train_data_dir", data / f"training{suffix}", "--validation_data_dir", data / f"held-out{suffix}"),
        *("--resolution", recipe["size"], "--channels", recipe["channels"], "--seed", seed),
        *("--train_batch_size", recipe["batch_size"], "--max_train_steps", recipe["steps"]),
        *("--learning_rate", LEARNING_RATE, "--lr_warmup_steps", WARMUP_STEPS),
        *("--save_image_epochs", 0, "--save_model_epochs", 0),
        *("--checkpointing_steps", 0, "--report_to", "csv", "--device", "CPU", "--output_dir", folder, *flags),
        *(["--random_flip"] if recipe["random_flip"] else []),
    ]
    subprocess.run(
        [str(part) for part in command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )


def train_in_torch(recipe: dict[str, Any], data: Path, folder: Path, seed: int) -> None:
    python = os.environ.get("PEER_PYTHON", str(ROOT / ".peer" / "bin" / "python"))
    settings = {
        "seed": seed,
        "unet": model_settings(recipe),
        "images": str(data / "training"),
        "random_flip": recipe["random_flip"],
        "batch_size": recipe["batch_size"],
        "steps": recipe["steps"],
        "warmup_steps": WARMUP_STEPS,
        "learning_rate": LEARNING_RATE,
        "output_dir": str(folder),
    }
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(settings))
    subprocess.run(
        [python, str(ROOT / "tests" / "programs" / "peer_train.py"), str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )


def validation_loss(recipe: dict[str, Any], data: Path, folder: Path) -> float:
    """Of a pipeline of either side, on the held-out images."""
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.jobs.unconditional.data import open_records
    from mindone_ddpm.jobs.unconditional.job import UnconditionalJob
    from mindone_ddpm.models import pipelines
    from mindone_ddpm.runtime.start import start

    runtime = start("CPU", "graph", 0)
    pipeline = pipelines.load_pipeline(str(folder))
    classes = pipeline.unet.config.num_class_embeds is not None
    config = TrainingConfig(
        train_data_dir=str(data / ("held-out-classes" if classes else "held-out")),
        image_size=recipe["size"],
        channels=recipe["channels"],
        class_conditional=classes,
        mixed_precision="no",
        train_batch_size=50,
        validation_num_images=10**6,  # all of them
    )
    records = open_records(config)
    job = UnconditionalJob(config, runtime, records, pipeline.unet, pipeline.scheduler)
    return job.validation_loss(records).run(lambda: None)["validation_loss"]


def quality(folder: Path) -> dict[str, float]:
    """Of 1,000 digits made from a pipeline, against all built-in ones, with the classifier's features."""
    output = folder.with_name(folder.name + "-figures")
    command = [
        *("evaluate", "--model", str(folder), "--dataset_name", "digits", "--features", "digits"),
        *("--metrics", "fid,kid,precision_recall", "--num_samples", "1000", "--batch_size", "100"),
        *("--num_inference_steps", "50", "--output_dir", str(output)),
    ]
    subprocess.run(
        [sys.executable, "-m", "mindone_ddpm", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=ROOT,
    )
    about = json.loads((output / "metrics.json").read_text())
    return {**about["metrics"], "seconds_per_1000_images": about["seconds"]}


def run(name: str, root: Path, rows: list[str], seeds: int) -> None:
    recipe, data = RECIPES[name], root / name / "data"
    if not data.exists():
        (make_digits if name == "digits" else make_photographs)(data)
    for row in rows:
        for seed in range(seeds):
            folder = root / name / f"{folder_name(row)}-{seed}"
            summary = folder.with_name(folder.name + "-summary.json")
            if not summary.exists():
                flags = VARIANTS[name].get(row)
                started = time.perf_counter()
                if flags is None:
                    train_in_torch(recipe, data, folder, seed)
                else:
                    train_here(recipe, data, folder, seed, ["--overwrite_output_dir", *flags])
                metrics = {"seconds": time.perf_counter() - started, "loss": validation_loss(recipe, data, folder)}
                if name == "digits":
                    metrics |= quality(folder)
                summary.write_text(json.dumps(metrics))
            print(f"{name}, {row}, seed {seed}: {summary.read_text()}", flush=True)


def folder_name(row: str) -> str:
    return row.replace(", ", "-").replace(" ", "-").replace("/", "-of-")


def format_table(root: Path, name: str) -> str:
    """All runs that have ended."""
    paths = {row: sorted((root / name).glob(f"{folder_name(row)}-[0-9]-summary.json")) for row in row_names(name)}
    return table_of_means(paths)


def table_of_means(summaries: Mapping[str, Sequence[Path]]) -> str:
    """Means over the seeds, in brackets the standard error of the mean, from the summaries of each row's runs."""
    rows = {row: [json.loads(path.read_text()) for path in paths] for row, paths in summaries.items() if paths}
    names = list(dict.fromkeys(name for runs in rows.values() for about in runs for name in about))
    lines = ["| | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row, runs in rows.items():
        cells = []
        for name in names:
            values = [about[name] for about in runs if name in about]
            cells.append("{:.4g} (± {:.2g})".format(*mean_and_error(values)) if values else "")
        lines.append(f"| {row} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if rows else ""


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which one value alone does not have: not a number."""
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan


def row_names(name: str) -> list[str]:
    return ["PyTorch", *VARIANTS[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=list(RECIPES))
    parser.add_argument("--folder", default="results", help="where runs and metrics are kept (default: results)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default: 3)")
    parser.add_argument("--rows", nargs="*", help="which rows of the table to run (default: all)")
    parser.add_argument("--steps", type=int, help="instead of the recipe's own; give another --folder")
    arguments = parser.parse_args()
    if arguments.steps is not None:
        RECIPES[arguments.recipe]["steps"] = arguments.steps
    root = Path(arguments.folder)
    rows = arguments.rows or row_names(arguments.recipe)
    if unknown := set(rows) - set(row_names(arguments.recipe)):
        parser.error(f"--rows: no {', '.join(unknown)}; there are {', '.join(row_names(arguments.recipe))}")
    run(arguments.recipe, root, rows, arguments.seeds)
    print(format_table(root, arguments.recipe))


if __name__ == "__main__":
    main()

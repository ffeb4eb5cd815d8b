#!/usr/bin/env python3
"""Minutes of training against the quality of the images: here with --recipe best, and the published script in PyTorch.

    python scripts/time_to_quality.py digits --folder quality --seeds 3
    python scripts/time_to_quality.py fashion --folder quality --images FOLDER      28x28 PNG files: Fashion-MNIST
    python scripts/time_to_quality.py few --folder quality --seeds 3                300 digits, against the others
    python scripts/time_to_quality.py few_fashion --folder quality --images FOLDER  300 of them, against 3,000 others
    python scripts/time_to_quality.py photographs --folder quality --images FOLDER  32x32 PNG files: CIFAR-10

Each row is a training of its own length, so that its learning rate has come down at the end. All pipelines are measured
here, by the same command: 2,000 images of 25 evaluations (DPM-Solver++) against the real ones; with --all_steps those
of the published settings also with all 1,000 steps of DDPM. The minutes are those of one core, start and compilation
included: each side has one thread, and what counts is processor time, so other work on the machine does not change
them. A run that has ended is not made again. Needs scripts/peer.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from quality_pictures import draw_curves, draw_rows, points_of
from results import ENVIRONMENT, ROOT, folder_name, table_of_means, write_images

from mindone_ddpm.config.values import GRID_FILE
from mindone_ddpm.models.presets import UNET_PRESETS

SAMPLES = 2000
SHOWN = 12  # images of a row
FEW = 300  # training images


class Data(NamedTuple):
    """What is trained on. ``steps``: of the published script; ``features``: that are compared."""

    size: int
    batch_size: int
    steps: int
    features: str
    channels: int = 1
    random_flip: bool = False


DATA = {
    "digits": Data(8, 64, 1500, "digits"),
    "fashion": Data(28, 16, 1500, "pixels"),
    "few": Data(8, 64, 1500, "digits"),
    "few_fashion": Data(28, 16, 1500, "pixels"),
    "photographs": Data(32, 16, 1500, "pixels", channels=3, random_flip=True),
}
PUBLISHED = "PyTorch, published"
# For each row: flags here, or settings there; and the steps as shares of the published script's.
HERE: dict[str, tuple[list[str], tuple[float, ...]]] = {
    "here, best recipe": (["--recipe", "best"], (1 / 6, 1 / 3, 2 / 3, 1.0)),
    "here, published settings": (["--use_ema"], (1.0,)),
}
TORCH: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    PUBLISHED: ({}, (1 / 3, 2 / 3, 1.0)),
    "PyTorch, squared cosine and compile": ({"beta_schedule": "squaredcos_cap_v2", "compile": True}, (1.0,)),
}
ONE_THREAD = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def rows_of(names: list[str]) -> list[tuple[str, str, float]]:
    """(title, name, share) of each row."""
    found = []
    for name in names:
        for share in (HERE.get(name) or TORCH[name])[1]:
            title = name if share == 1.0 else f"{name}, {Fraction(share).limit_denominator(9)} of the steps"
            found.append((title, name, share))
    return found


def make_data(name: str, folder: Path, images: Path | None) -> None:
    """``training/`` and ``real/``, the images to compare with."""
    if DATA[name].features == "digits":
        from sklearn.datasets import load_digits

        pixels = (load_digits().images / 16 * 255).round().astype(np.uint8)
    else:
        if images is None:
            size = DATA[name].size
            raise SystemExit(f"{name}: give --images, a folder of {size}x{size} PNG files")
        mode = "L" if DATA[name].channels == 1 else "RGB"
        pixels = np.stack(
            [np.asarray(Image.open(path).convert(mode)) for path in sorted(images.rglob("*.png"))[:10_000]]
        )
    if name in ("digits", "few", "few_fashion"):  # the other files are in no order
        pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
    training, real = (pixels[:FEW], pixels[FEW : FEW + 3000]) if name.startswith("few") else (pixels, pixels)
    write_images(folder / "training", training, None)
    write_images(folder / "real", real, None)


def train_here(data: Data, root: Path, folder: Path, seed: int, name: str, share: float) -> None:
    flags, _ = HERE[name]
    run(
        *(sys.executable, "-m", "mindone_ddpm", "train", "--train_data_dir", root / "data" / "training", *flags),
        *("--preset", "tiny", "--resolution", data.size, "--channels", data.channels, "--seed", seed),
        "--random_flip" if data.random_flip else "--no-random_flip",
        *("--train_batch_size", data.batch_size, "--max_train_steps", round(data.steps * share)),
        *("--learning_rate", 1e-3, "--lr_warmup_steps", 100, "--save_image_epochs", 0, "--save_model_epochs", 0),
        *("--checkpointing_steps", 0, "--report_to", "csv", "--device", "CPU", "--overwrite_output_dir"),
        *("--output_dir", folder),
    )


def train_in_torch(data: Data, root: Path, folder: Path, seed: int, name: str, share: float) -> None:
    sizes = {"sample_size": data.size, "in_channels": data.channels, "out_channels": data.channels}
    settings = {
        "seed": seed,
        "unet": {**UNET_PRESETS["tiny"], **sizes},
        "images": str(root / "data" / "training"),
        "random_flip": data.random_flip,
        "batch_size": data.batch_size,
        "steps": round(data.steps * share),
        "warmup_steps": 100,
        "learning_rate": 1e-3,
        "output_dir": str(folder),
        **TORCH[name][0],
    }
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(settings))
    python = os.environ.get("PEER_PYTHON", str(ROOT / ".peer" / "bin" / "python"))
    run(python, ROOT / "tests" / "programs" / "peer_train.py", path)


def run(*command: object) -> None:
    words = [str(word) for word in command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ONE_THREAD, cwd=ROOT)


def processor_minutes() -> float:
    """Of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def measure(name: str, data: Data, root: Path, folder: Path, all_steps: bool) -> dict[str, float]:
    """The distance of a pipeline's images to the real ones, and for few images the share of suspicious ones.

    Args:
        all_steps: also with 1,000 steps of DDPM.
    """
    command = [sys.executable, "-m", "mindone_ddpm", "evaluate", "--model", folder, "--features", data.features]
    command += ["--num_samples", SAMPLES]
    output = folder.with_name(folder.name + "-figures")
    slow: dict[str, float] = {}
    if all_steps:
        real = ("--train_data_dir", root / "data" / "real", "--metrics", "fid,kid")
        run(*command, *real, "--scheduler", "ddpm", "--num_inference_steps", 1000, "--output_dir", output)
        metrics = json.loads((output / "metrics.json").read_text())["metrics"]
        slow = {f"{key}_1000_steps": value for key, value in metrics.items() if not key.endswith("_std")}
    command += ["--scheduler", "dpmsolver++", "--num_inference_steps", 25]
    run(*command, "--train_data_dir", root / "data" / "real", "--metrics", "fid,kid", "--output_dir", output)
    found = json.loads((output / "metrics.json").read_text())["metrics"]
    if name.startswith("few"):
        compared = ["--train_data_dir", root / "data" / "training", "--held_out", root / "data" / "real"]
        run(*command, *compared, "--copies", "--metrics", "kid", "--output_dir", output)
        found["suspicious_share"] = json.loads((output / "copies.json").read_text())["suspicious_share"]
    return {key: value for key, value in found.items() if not key.endswith("_std")} | slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(DATA))
    parser.add_argument("--folder", default="quality", help="where runs and metrics are kept (default: quality)")
    parser.add_argument("--images", type=Path, help="for fashion and photographs: the folder of images")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--first_seed", type=int, default=0, help="for programs beside one another (default: 0)")
    parser.add_argument("--rows", nargs="*", choices=[*TORCH, *HERE], default=[*TORCH, *HERE])
    parser.add_argument("--all_steps", action="store_true", help="also measure the published one with 1,000 steps")
    parser.add_argument("--pictures", type=Path, help="a folder for the curves and for images of each row")
    arguments = parser.parse_args()
    name, data, root = arguments.data, DATA[arguments.data], Path(arguments.folder).resolve() / arguments.data
    if not (root / "data").exists():
        unfinished = root / f"data-{os.getpid()}"  # of programs beside one another, the first that is done counts
        make_data(name, unfinished, arguments.images)
        try:
            unfinished.rename(root / "data")
        except OSError:
            shutil.rmtree(unfinished)
    rows = rows_of(arguments.rows)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for title, row, share in rows:
            folder = root / f"{folder_name(title)}-{seed}"
            summary = folder.with_name(folder.name + ".summary")
            if not summary.exists():
                before = processor_minutes()
                (train_in_torch if row in TORCH else train_here)(data, root, folder, seed, row, share)
                minutes = processor_minutes() - before
                figures = measure(name, data, root, folder, all_steps=arguments.all_steps and title == PUBLISHED)
                summary.write_text(json.dumps({"minutes": minutes, **figures}))
            print(f"{name}, {title}, seed {seed}: {summary.read_text()}", flush=True)
    summaries = {title: sorted(root.glob(f"{folder_name(title)}-[0-9].summary")) for title, _, _ in rows}
    print(table_of_means(summaries))
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        draw(data, root, arguments.pictures / f"quality-{name}", rows, summaries, arguments.first_seed)


def draw(
    data: Data, root: Path, start: Path, rows: list[tuple[str, str, float]], summaries: dict[str, Any], seed: int
) -> None:
    """The curves of all rows, and images of a seed."""
    figure, curves = f"{data.features}_frechet_distance", {}
    for name in dict.fromkeys(name for _, name, _ in rows):
        curves[name] = points_of([summaries[title] for title, row, _ in rows if row == name], figure)
    draw_curves(curves, start.with_name(f"{start.name}-curves.png"))
    images = {}
    for title, _, _ in rows:
        model = root / f"{folder_name(title)}-{seed}"
        output = model.with_name(f"{model.name}-images")
        if not output.exists():
            flags = ("--num_images", SHOWN, "--scheduler", "dpmsolver++", "--num_inference_steps", 25)
            run(sys.executable, "-m", "mindone_ddpm", "sample", "--model", model, *flags, "--output_dir", output)
        images[title] = [path for path in sorted(output.glob("*.png")) if path.name != GRID_FILE]
    draw_rows(images, start.with_suffix(".png"))


if __name__ == "__main__":
    main()

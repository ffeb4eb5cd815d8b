#!/usr/bin/env python3
"""Minutes of training against the quality of the images: here with --recipe best, and the published script in PyTorch.

    python scripts/time_to_quality.py digits --folder quality --seeds 3
    python scripts/time_to_quality.py fashion --folder quality --images FOLDER      28x28 PNG files: Fashion-MNIST
    python scripts/time_to_quality.py few --folder quality --seeds 3                300 digits, against the others

Each row is a training of its own length, so that its learning rate has come down at the end. All pipelines are measured
here, by the same command: 2,000 images of 25 evaluations (DPM-Solver++) against the real ones. The minutes are those of
the whole program, with start and compilation. A run that has ended is not made again. Needs scripts/peer.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import ENVIRONMENT, ROOT, folder_name, table_of_means, write_images

from mindone_ddpm.models.presets import UNET_PRESETS

SAMPLES = 2000


class Data(NamedTuple):
    """What is trained on. ``steps``: of the published script; ``features``: that are compared."""

    size: int
    batch_size: int
    steps: int
    features: str


DATA = {
    "digits": Data(8, 64, 1500, "digits"),
    "fashion": Data(28, 64, 1500, "pixels"),
    "few": Data(8, 64, 1500, "digits"),
}
# Steps as a share of the published script's, and flags or settings.
HERE: dict[str, tuple[float, list[str]]] = {
    "here, best recipe": (1.0, ["--recipe", "best"]),
    "here, best recipe, a third of the steps": (1 / 3, ["--recipe", "best"]),
    "here, published settings": (1.0, ["--use_ema"]),
}
TORCH: dict[str, dict[str, Any]] = {
    "PyTorch, published": {},
    "PyTorch, squared cosine and compile": {"beta_schedule": "squaredcos_cap_v2", "compile": True},
}


def make_data(name: str, folder: Path, images: Path | None) -> None:
    """``training/`` and ``real/``, the images to compare with."""
    if name == "fashion":
        if images is None:
            raise SystemExit("fashion: give --images, a folder of 28x28 PNG files")
        for part in ("training", "real"):
            (folder / part).mkdir(parents=True)
        for number, path in enumerate(sorted(images.rglob("*.png"))[:10_000]):
            for part in ("training", "real"):
                os.link(path, folder / part / f"{number:05d}.png")
        return
    from sklearn.datasets import load_digits

    pixels = (load_digits().images / 16 * 255).round().astype(np.uint8)
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
    training, real = (pixels[:300], pixels[300:]) if name == "few" else (pixels, pixels)
    write_images(folder / "training", training, None)
    write_images(folder / "real", real, None)


def train_here(data: Data, root: Path, folder: Path, seed: int, row: str) -> None:
    share, flags = HERE[row]
    run(
        *(sys.executable, "-m", "mindone_ddpm", "train", "--train_data_dir", root / "data" / "training", *flags),
        *("--preset", "tiny", "--resolution", data.size, "--channels", 1, "--no-random_flip", "--seed", seed),
        *("--train_batch_size", data.batch_size, "--max_train_steps", round(data.steps * share)),
        *("--learning_rate", 1e-3, "--lr_warmup_steps", 100, "--save_image_epochs", 0, "--save_model_epochs", 0),
        *("--checkpointing_steps", 0, "--report_to", "csv", "--device", "CPU", "--overwrite_output_dir"),
        *("--output_dir", folder),
    )


def train_in_torch(data: Data, root: Path, folder: Path, seed: int, row: str) -> None:
    sizes = {"sample_size": data.size, "in_channels": 1, "out_channels": 1}
    settings = {
        "seed": seed,
        "unet": {**UNET_PRESETS["tiny"], **sizes},
        "images": str(root / "data" / "training"),
        "random_flip": False,
        "batch_size": data.batch_size,
        "steps": data.steps,
        "warmup_steps": 100,
        "learning_rate": 1e-3,
        "output_dir": str(folder),
        **TORCH[row],
    }
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(settings))
    python = os.environ.get("PEER_PYTHON", str(ROOT / ".peer" / "bin" / "python"))
    run(python, ROOT / "tests" / "programs" / "peer_train.py", path)


def run(*command: object) -> None:
    words = [str(word) for word in command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT)


def measure(name: str, data: Data, root: Path, folder: Path) -> dict[str, float]:
    """The distance of a pipeline's images to the real ones, and for few images the share of suspicious ones."""
    command = [sys.executable, "-m", "mindone_ddpm", "evaluate", "--model", folder, "--features", data.features]
    command += ["--scheduler", "dpmsolver++", "--num_inference_steps", 25, "--num_samples", SAMPLES]
    output = folder.with_name(folder.name + "-figures")
    run(*command, "--train_data_dir", root / "data" / "real", "--metrics", "fid,kid", "--output_dir", output)
    found = json.loads((output / "metrics.json").read_text())["metrics"]
    if name == "few":
        compared = ["--train_data_dir", root / "data" / "training", "--held_out", root / "data" / "real"]
        run(*command, *compared, "--copies", "--metrics", "kid", "--output_dir", output)
        found["suspicious_share"] = json.loads((output / "copies.json").read_text())["suspicious_share"]
    return {key: value for key, value in found.items() if not key.endswith("_std")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(DATA))
    parser.add_argument("--folder", default="quality", help="where runs and metrics are kept (default: quality)")
    parser.add_argument("--images", type=Path, help="for fashion: the folder of images")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default: 3)")
    parser.add_argument("--rows", nargs="*", choices=[*TORCH, *HERE], default=[*TORCH, *HERE])
    arguments = parser.parse_args()
    name, data, root = arguments.data, DATA[arguments.data], Path(arguments.folder).resolve() / arguments.data
    if not (root / "data").exists():
        make_data(name, root / "data", arguments.images)
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            folder = root / f"{folder_name(row)}-{seed}"
            summary = folder.with_name(folder.name + ".summary")
            if not summary.exists():
                started = time.perf_counter()
                (train_in_torch if row in TORCH else train_here)(data, root, folder, seed, row)
                minutes = (time.perf_counter() - started) / 60
                summary.write_text(json.dumps({"minutes": minutes, **measure(name, data, root, folder)}))
            print(f"{name}, {row}, seed {seed}: {summary.read_text()}", flush=True)
    print(table_of_means({row: sorted(root.glob(f"{folder_name(row)}-[0-9].summary")) for row in arguments.rows}))


if __name__ == "__main__":
    main()

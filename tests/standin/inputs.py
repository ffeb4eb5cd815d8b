"""What the cases of the rehearsal start from: configurations, images, trained pipelines. Made on the CPU.

    python tests/standin/inputs.py FOLDER [NAME ...]

makes what the functions of :data:`MAKERS` are listed for, or all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "programs"
sys.path[:0] = [str(ROOT), str(PROGRAMS)]

UNET = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "add_attention": False,
}
ATTENTION = {
    **UNET,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
}
CONFIGURATIONS = {"unet": UNET, "dropout": {**UNET, "dropout": 0.2}, "attention": ATTENTION}


def configuration(path: Path) -> None:
    """A UNet that compiles in seconds."""
    path.write_text(json.dumps(CONFIGURATIONS[path.stem]))


def image(path: Path) -> None:
    """One of the built-in digits."""
    from mindone_ddpm.data.datasets import load_digits_dataset

    load_digits_dataset()["ab".index(path.stem)]["image"].save(path)


def mask(path: Path) -> None:
    """Black above, white below."""
    pixels = np.full((8, 8), 255, np.uint8)
    pixels[:4] = 0
    Image.fromarray(pixels).save(path)


def pipeline(folder: Path) -> None:
    """A UNet trained for 60 steps; ``classes`` has classes and attention."""
    from mindone_ddpm.cli import main

    model = "attention" if folder.name == "classes" else "unet"
    settings = folder.with_name(f"{folder.name}-{model}.json")
    settings.write_text(json.dumps(CONFIGURATIONS[model]))
    flags = "train --dataset_name digits --channels 1 --image_size 8 --train_batch_size 32 --learning_rate 2e-3 "
    flags += "--max_train_steps 60 --save_image_epochs 0 --checkpointing_steps 0 --report_to none --device CPU "
    flags += f"--lr_warmup_steps 0 --model_config_name_or_path {settings} --output_dir {folder}"
    flags += " --class_conditional" if folder.name == "classes" else ""
    if main(flags.split()):
        raise SystemExit(f"the pipeline {folder.name} could not be trained")


def stable_diffusion(folder: Path) -> None:
    """A Stable Diffusion pipeline with random weights; see make_stable_diffusion.py."""
    from make_stable_diffusion import make_pipeline

    make_pipeline(folder, xl=folder.name.endswith("-xl"))


def captioned(folder: Path) -> None:
    """64 of the built-in digits with captions."""
    from make_stable_diffusion import NUMBERS

    from mindone_ddpm.data.datasets import load_digits_dataset

    digits = load_digits_dataset().select(range(64))
    texts = [f"a handwritten {NUMBERS[label]}" for label in digits["label"]]
    digits.remove_columns("label").add_column("text", texts).save_to_disk(folder)


def some_digits(folder: Path) -> None:
    """Four images of a digit as files: threes as a subject, sevens as a class."""
    from mindone_ddpm.data.datasets import load_digits_dataset

    digits, wanted = load_digits_dataset(), {"subject": 3, "class": 7}[folder.name]
    folder.mkdir()
    for number in [place for place, label in enumerate(digits["label"]) if label == wanted][:4]:
        digits[number]["image"].convert("RGB").resize((16, 16)).save(folder / f"{number}.png")


def several_sizes(folder: Path) -> None:
    """Two square digits as files, two wide ones and two tall ones."""
    from mindone_ddpm.data.datasets import load_digits_dataset

    digits = load_digits_dataset()
    folder.mkdir()
    for number, size in enumerate([(30, 30), (50, 30), (30, 50)] * 2):
        digits[number]["image"].convert("RGB").resize(size).save(folder / f"{number}.png")


def inception(folder: Path) -> None:
    """Inception-v3 with random weights, and two folders of three images; made with PyTorch, see scripts/peer.sh."""
    python = Path(os.environ.get("PEER_PYTHON", ROOT / ".peer" / "bin" / "python"))
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.kron(generator.integers(0, 255, (6, 6, 3)), np.ones((8, 8, 1)))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    extra = {**os.environ, "PYTHONPATH": str(python.parent.parent / "extra")}
    subprocess.run([python, PROGRAMS / "peer_fid.py", folder, folder / "a", folder / "b"], check=True, env=extra)
    convert = [
        python,
        "-m",
        "mindone_ddpm",
        "convert_inception",
        folder / "weights.pth",
        folder / "weights.safetensors",
    ]
    subprocess.run(convert, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


MAKERS: dict[str, Callable[[Path], None]] = {
    **{f"{name}.json": configuration for name in CONFIGURATIONS},
    **{"a.png": image, "b.png": image, "mask.png": mask},
    **{"digits": pipeline, "classes": pipeline, "stable-diffusion": stable_diffusion, "captioned": captioned},
    "stable-diffusion-xl": stable_diffusion,
    **{"subject": some_digits, "class": some_digits, "sizes": several_sizes},
    "inception": inception,
}


def make_inputs(folder: Path, names: Iterable[str]) -> None:
    """What cases call ``{inputs}/NAME``; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            try:
                MAKERS[name](folder / name)
            except BaseException:
                shutil.rmtree(folder / name, ignore_errors=True)  # half of it
                raise


if __name__ == "__main__":
    make_inputs(Path(sys.argv[1]), sys.argv[2:] or MAKERS)

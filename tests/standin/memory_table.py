"""Prints the table of device memory in docs/ascend.md: MindSpore's own plan on the stand-in, and the formula's figure.

    python tests/standin/memory_table.py FOLDER [ROW ...]        some minutes a row; see ROWS

Stable Diffusion 1.5 is made with random weights in FOLDER (4.1 GB). Nothing is computed (STANDIN_COMPUTE=0), but the
weights lie in this machine's memory, twice for a moment.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from standin import ROOT, run_on_standin

IMAGES = ["train", "--dataset_name", "digits", "--channels", "3", "--preset", "tutorial-128", "--image_size", "128"]
LARGE_IMAGES = ["train", "--dataset_name", "digits", "--channels", "3", "--preset", "ddpm-256", "--image_size", "256"]
TEXTS = ["train_text_to_image", "--dataset_name", "{folder}/captioned", "--center_crop", "--resolution", "512"]
TEXTS += ["--pretrained_model_name_or_path", "{folder}/pipeline", "--cache_dir", "{folder}/cache"]
# Name in the table, batch, flags.
ROWS: dict[str, tuple[str, int, list[str]]] = {
    "tutorial": ("tutorial's model, 128x128", 16, IMAGES),
    "tutorial-ema": ("the same with EMA", 16, [*IMAGES, "--use_ema"]),
    "tutorial-float32": ("the same in float32", 16, [*IMAGES, "--mixed_precision", "no"]),
    "tutorial-checkpointing": (
        "the same with gradient checkpointing",
        16,
        [*IMAGES, "--gradient_checkpointing"],
    ),
    "ddpm-256": ("ddpm-256, 256x256, with EMA", 8, [*LARGE_IMAGES, "--use_ema"]),
    "ddpm-256-checkpointing": (
        "the same with gradient checkpointing",
        8,
        [*LARGE_IMAGES, "--use_ema", "--gradient_checkpointing"],
    ),
    "lora": ("Stable Diffusion 1.5, LoRA of rank 4, 512x512", 1, [*TEXTS, "--rank", "4"]),
    "lora-4": ("the same", 4, [*TEXTS, "--rank", "4"]),
    "full": ("Stable Diffusion 1.5, all weights, 512x512", 1, TEXTS),
    "full-4": ("the same", 4, TEXTS),
    "full-ema": ("the same with EMA and gradient checkpointing", 4, [*TEXTS, "--use_ema", "--gradient_checkpointing"]),
}
HEADINGS = ("parameters", "optimizer", "EMA", "activations", "peak memory")


def make_inputs(folder: Path) -> None:
    """Stable Diffusion 1.5 with random weights, and digits with captions."""
    if (folder / "captioned").exists():
        return
    program = ROOT / "tests" / "programs" / "make_stable_diffusion.py"
    subprocess.run([sys.executable, str(program), str(folder), "--real_size"], check=True)
    from mindone_ddpm.data.datasets import load_digits_dataset

    digits = load_digits_dataset().select(range(64)).remove_columns("label")
    digits.add_column("text", ["a handwritten digit"] * 64).save_to_disk(str(folder / "captioned"))


def row(name: str, folder: Path) -> str:
    title, batch, flags = ROWS[name]
    flags = [flag.format(folder=folder) for flag in flags]
    flags += ["--train_batch_size", str(batch), "--dry_run", "--device", "Ascend", "--output_dir", str(folder / "run")]
    result = run_on_standin("-m", "mindone_ddpm", *flags, timeout_s=3600, STANDIN_COMPUTE="0")
    plan = dict(re.findall(r"^# (.+?): (.+)$", result.stdout, re.MULTILINE))
    if result.returncode or "as allocated" not in plan.get("peak memory", ""):
        return f"{name}: {plan.get('peak memory', result.stderr[-1000:])}"
    peak, formula, enough = re.findall(
        r"(.+), as allocated in one step \(by formula (.+)\); (.+)", plan["peak memory"]
    )[0]
    cells = [title, str(batch), *(plan[heading] for heading in HEADINGS[:4]), peak, formula]
    cells += [part.split(": ")[1] for part in enough.split(", ")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    make_inputs(target)
    for name in sys.argv[2:] or ROWS:
        print(row(name, target), flush=True)

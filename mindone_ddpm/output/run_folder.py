"""The folder of a run: what is in it, how the result gets into it, and how an earlier run is removed from it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from mindone_ddpm.common.files import added_files, remove_leftovers, save_safetensors
from mindone_ddpm.common.json_files import read_table
from mindone_ddpm.config.values import ADAPTERS_FILE, EMBEDDING_FILE, TRAJECTORY_STRIP
from mindone_ddpm.models.foreign import PART_NAME, PIPELINE_INDEX, part_names
from mindone_ddpm.output.product import SNAPSHOTS, Product
from mindone_ddpm.output.records import CHECKPOINTS
from mindone_ddpm.output.run_state import STATE_FILE

RUN_CONFIG = "training_config.yaml"
SAMPLES = "samples"
# Of an epoch or a step. ``sample`` may write there too, single images with names of five digits, and a grid of them.
GRID_NAME = re.compile(r"\d{4}|[1-9]\d{4,}|step-\d+")
PRODUCT_RECORD = "product.json"  # which job made the result, and what belongs to it
BEST = "best"  # folder of the best product
BEST_RECORD = "best.json"  # in there: what it is the best of
SNAPSHOT_PREFIX = ".upload-"  # folders of files that are being uploaded

# What diffusers writes, for folders whose job is not known: a pipeline, adapters, or an embedding.
DIFFUSERS_INDEX_FILES = {PIPELINE_INDEX: "pipeline", ADAPTERS_FILE: "adapters", EMBEDDING_FILE: "embedding"}
DIFFUSERS_PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "feature_extractor")


def save_product(product: Product, save: Callable[[Path], None], folder: Path, dtype: str = "float32") -> None:
    """Save the result of a run into ``folder``, which may hold other files, and a record of what it is.

    Args:
        product: its index file is moved last: where it is, the result is complete.
        save: writes the result into the folder that it is given.
        dtype: of the weights: ``float32`` (as they are), ``fp16`` or ``bf16``.
    """
    with added_files(folder, last=product.index_file) as tmp_path:
        save(tmp_path)
        if dtype != "float32":
            for weights in tmp_path.rglob("*.safetensors"):
                convert_weights(weights, dtype)
        about = {"command": product.command, "index_file": product.index_file, "parts": list(product.parts)}
        (tmp_path / PRODUCT_RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def recorded_parts(folder: Path) -> list[str]:
    """The parts that the record in a folder names; none where there is no record. Paths are no names."""
    try:
        parts = read_table(folder / PRODUCT_RECORD)["parts"]
        return [part for part in parts if isinstance(part, str) and PART_NAME.fullmatch(part)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def convert_weights(path: Path, dtype: str) -> None:
    """Rewrite a safetensors file with all its arrays in ``fp16`` or ``bf16``."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import load_file

    target = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}[dtype]
    weights = {name: array.astype(target) for name, array in load_file(path).items()}
    save_safetensors(weights, path, metadata={"format": "np"})


def grids_in(folder: Path) -> list[Path]:
    """A run's grids of samples, by epoch."""
    grids = [path for path in (folder / SAMPLES).glob("*.png") if GRID_NAME.fullmatch(path.stem)]
    return sorted(grids, key=lambda path: (len(path.stem), path.stem))


def index_files_in(folder: Path, product: Product | None = None) -> list[str]:
    """The index files that a folder has: that of the product, and those of diffusers."""
    names = dict.fromkeys([*([product.index_file] if product else []), *DIFFUSERS_INDEX_FILES])
    return [name for name in names if (folder / name).is_file()]


def parts_in(folder: Path, product: Product | None = None) -> list[str]:
    """The parts of a product that a folder has: those that its index names, and those that are known beforehand."""
    try:
        named = [name for name in part_names(read_table(folder / PIPELINE_INDEX)) if (folder / name).is_dir()]
    except (OSError, ValueError):
        named = []
    known = [*(DIFFUSERS_PARTS if product is None else product.parts), *recorded_parts(folder)]
    return sorted({*named, *(name for name in known if (folder / name).exists())})


def run_products(folder: Path, product: Product | None = None) -> list[Path]:
    """What a run has left in a folder: result, samples, checkpoints, configuration. Index files come first.

    Args:
        product: of a job whose files are not those of diffusers.
    """
    parts = {*parts_in(folder), *parts_in(folder, product)}
    names = [
        *index_files_in(folder, product),
        PRODUCT_RECORD,
        RUN_CONFIG,
        STATE_FILE,
        SAMPLES,
        TRAJECTORY_STRIP,
        BEST,
        SNAPSHOTS,
        *sorted(parts),
    ]
    return [folder / name for name in names if (folder / name).exists()] + sorted(folder.glob(CHECKPOINTS))


def clear_run(folder: Path, product: Product | None = None) -> None:
    """Remove what an earlier run left, except the trackers' files; all other files stay. Index files go first."""
    for path in run_products(folder, product):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of a process that was killed while it wrote."""
    remove_leftovers(folder)
    for path in folder.glob(f"{SNAPSHOT_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)

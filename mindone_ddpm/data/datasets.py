"""Where images come from: built-in digits, a folder, parquet files, a saved data set, or a hub."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import irregular_in
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.common.hubs.base import DATASET, choose_hub
from mindone_ddpm.config.groups import BUILT_IN_DATASETS, DataConfig
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.unreadable import name_ignored, without_unreadable


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8), float64 from 0 to 16, and labels, as scikit-learn's ``load_digits`` returns them.

    From the file that it reads: scikit-learn takes a second to import.
    """
    found = importlib.util.find_spec("sklearn")
    file = Path(str(found.origin)).parent / "datasets" / "data" / "digits.csv.gz" if found is not None else None
    if file is None or not file.exists():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images, digits.target
    with gzip.open(file, "rt") as opened:
        rows = np.loadtxt(opened, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)


def load_digits_dataset() -> Any:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey, with labels, as a Hugging Face data set."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    images, labels = read_digits()
    images = (images * (255.0 / 16.0)).round().astype(np.uint8)
    files = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="png")
        files.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    return Dataset.from_dict({"image": files, "label": labels.tolist()}, features=features)


def load_hf_dataset(config: DataConfig) -> Any:
    """The data set that the settings name.

    Raises:
        DataError: it is not found, is empty, or has no such split.
    """
    if config.dataset_name in BUILT_IN_DATASETS:
        return load_digits_dataset()

    if config.train_data_dir is not None:
        dataset = _load_folder(config)
    elif _is_local_folder(str(config.dataset_name)):
        dataset = _load_saved(str(config.dataset_name))
    else:
        dataset = _load_from_hub(config)
    if isinstance(dataset, dict):
        if config.dataset_split not in dataset:
            raise DataError(f"--dataset_split {config.dataset_split}: the data set has {', '.join(dataset)}")
        dataset = dataset[config.dataset_split]
    return dataset


# What is downloaded of a data set, from a hub that `datasets` does not know: images, tables and what describes them.
DATASET_FILES = (
    *("*.parquet", "*.arrow", "*.csv", "*.jsonl", "*.json", "*.md", "*.zip"),
    *("*.jpg", "*.jpeg", "*.png", "*.webp", "*.bmp", "*.gif", "*.tif", "*.tiff"),
    *("*.JPG", "*.JPEG", "*.PNG"),
)
SAVED_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")  # of save_to_disk


def _load_from_hub(config: DataConfig) -> Any:
    """`datasets` reads from the Hugging Face Hub itself. From another hub, the files are downloaded first."""
    import datasets

    name, chosen = str(config.dataset_name), choose_hub(config.hub)
    try:
        if config.hub != HUGGINGFACE:
            folder = chosen.fetch(name, DATASET_FILES, kind=DATASET)
            if any((folder / file).is_file() for file in SAVED_DATASET_FILES):
                return _load_saved(str(folder))
            name = str(folder)
        return datasets.load_dataset(
            name,
            config.dataset_config_name,
            split=config.dataset_split,
            cache_dir=config.cache_dir,
            streaming=config.streaming,
        )
    except UserError:
        raise
    except Exception as error:  # `datasets` and clients of hubs raise many kinds
        reason = first_line(error)
        raise DataError(
            f"--dataset_name {config.dataset_name}: not found or not reachable on {chosen.title} ({reason}). "
            "A data set on this machine is given by --train_data_dir, or by a folder's path as --dataset_name"
        ) from error


def _is_local_folder(name: str) -> bool:
    """Whether a data set's name is that of a local folder: it looks like a path, or save_to_disk wrote it."""
    files = (os.path.join(name, file) for file in SAVED_DATASET_FILES)
    return name.startswith((".", "/", "~")) or any(map(os.path.isfile, files))


def _load_saved(folder: str) -> Any:
    import datasets

    odd = irregular_in(Path(folder))
    if odd is not None:
        raise DataError(f"--dataset_name {folder}: {odd.name} is neither a file nor a folder")
    try:
        dataset = datasets.load_from_disk(folder)
        for part in dataset.values() if isinstance(dataset, dict) else [dataset]:
            # Arrow's files are mapped as they are, and places in them are followed: of a damaged one, to anywhere.
            part.data.table.validate(full=True)
            part.reset_format()  # a stored one hides columns, or wants another library
            if set(part.features) != set(part.data.table.column_names):
                raise ValueError("its columns are not those that it names")
    except Exception as error:
        raise DataError(
            f"--dataset_name {folder}: is not a folder written by save_to_disk, or is damaged ({first_line(error)}); "
            "a folder of images is given by --train_data_dir"
        ) from error
    return dataset


def _is_utf8(path: Path) -> bool:
    """Whether a name is UTF-8: Python puts surrogates in the place of other bytes."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _load_folder(config: DataConfig) -> Any:
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    folder = Path(str(config.train_data_dir))
    flag = f"--train_data_dir {folder}"
    if folder.is_file():
        raise DataError(f"{flag}: is a file; give a folder of images, or of parquet files (unpack an archive first)")
    if not folder.is_dir():
        raise DataError(f"{flag}: no such folder")
    entries = list(folder.rglob("*"))
    files = [path for path in entries if path.is_file()]
    if not files:
        raise DataError(f"{flag}: the folder is empty")
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _load_saved(str(folder))
    odd = next((path for path in files if not _is_utf8(path)), None)
    if odd is not None:
        raise DataError(f"{flag}: the file name {str(odd.relative_to(folder))!r} is not UTF-8; rename the file")
    images = [path for path in files if path.suffix.lower() in ImageFolder.EXTENSIONS]
    if not images and not any(path.suffix == ".parquet" for path in files):
        raise DataError(f"{flag}: holds no images and no parquet files")
    name_ignored(folder, entries, ImageFolder.EXTENSIONS)
    options: dict[str, Any] = {"data_dir": str(folder), "split": config.dataset_split, "cache_dir": config.cache_dir}
    options["streaming"] = config.streaming
    # `datasets` takes folders called train, test or validation for splits, and ignores all other folders next to them.
    top = {path.relative_to(folder).parts[0] for path in images}
    if images and not all(re.match(r"(train|test|val|valid|validation|dev|eval)\b", name) for name in top):
        options["data_files"] = {config.dataset_split: ["**"]}
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the error below says it all
    try:
        return datasets.load_dataset("imagefolder" if images else "parquet", **options)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise DataError(f"{flag}: cannot be read as a data set ({reason})") from error
    finally:
        datasets.logging.set_verbosity(level)


def find_image_column(dataset: Any, wanted: str | None) -> str:
    """The column that holds images: the one named, or the only one of that type.

    Args:
        wanted: the column's name; None: find it.

    Raises:
        DataError: there is none, there are several, or the one named holds no images.
    """
    from datasets import Image as ImageFeature
    from datasets import Value

    images = [name for name, feature in dataset.features.items() if isinstance(feature, ImageFeature)]
    # Parquet files that `datasets` did not write hold images as {bytes, path}.
    images += [n for n, f in dataset.features.items() if isinstance(f, dict) and set(f) == {"bytes", "path"}]
    if wanted is not None:
        if wanted not in dataset.features:
            raise DataError(f"--image_column {wanted}: the data set has {', '.join(dataset.features)}")
        if wanted not in images and dataset.features[wanted] not in (Value("binary"), Value("large_binary")):
            raise DataError(
                f"--image_column {wanted}: is not a column of images; image columns: {', '.join(images) or 'none'}"
            )
        return wanted
    if len(images) == 1:
        return images[0]
    if not images:
        raise DataError(f"--image_column: no column of images found among {', '.join(dataset.features)}")
    raise DataError(f"--image_column: several columns hold images ({', '.join(images)}); name one")


def open_dataset(config: DataConfig) -> tuple[Any, str]:
    """The data set, at most ``max_train_samples`` of it, and the name of its image column, which is not decoded.

    Raises:
        DataError: see :func:`load_hf_dataset` and :func:`find_image_column`; or it is empty.
    """
    from datasets import Dataset
    from datasets import Image as ImageFeature

    dataset = load_hf_dataset(config)
    if dataset.features is None:  # a stream without a schema
        dataset = dataset._resolve_features()
    column = find_image_column(dataset, config.image_column)
    dataset = dataset.cast_column(column, ImageFeature(decode=False))
    if not isinstance(dataset, Dataset):
        return dataset, column
    if len(dataset) == 0:
        raise DataError("the data set has no images")
    if config.max_train_samples is not None and config.max_train_samples < len(dataset):
        dataset = dataset.select(range(config.max_train_samples))
    if config.on_bad_image == "skip":
        dataset = without_unreadable(dataset, column, config.max_image_pixels)
    return (dataset.to_iterable_dataset() if config.streaming else dataset), column

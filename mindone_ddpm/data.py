"""Images in, batches out.

An :class:`ImageRecords` is a Hugging Face data set seen as pictures of one size; :func:`make_loader` feeds it to
MindSpore through a ``GeneratorDataset`` whose items are whole batches. What a batch holds is a function of the seed
and of its number alone: the order of an epoch, the flips, the noise and the timesteps come from counter-based
generators keyed by the position of a sample in the run, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from mindone_ddpm.config import BUILT_IN_DATASETS, Problem, TrainingConfig, first_line

CHANNEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# The use that a random stream is for; part of its key, so that no two streams are alike.
ORDER_STREAM, SAMPLE_STREAM = 1, 2


class DataProblem(Problem):
    """The data cannot be used as asked; the message is one line that names the file, the column or the flag."""


# --- randomness ----------------------------------------------------------------------------------------------------


def random_stream(seed: int, stream: int, position: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments alone (Philox; Salmon et al. 2011): no state, nothing to restore."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, position, 0], dtype=np.uint64)  # the low words count within the stream
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of ``range(num_samples)``, int64."""
    return random_stream(seed, ORDER_STREAM, epoch).permutation(num_samples)


# --- pictures ------------------------------------------------------------------------------------------------------


def decode_image(content: bytes | None, path: str | None, where: str) -> Image.Image:
    """Decode one picture: the first frame, turned upright as its EXIF data says.

    Args:
        content: the file's bytes, or None to read ``path``.
        where: what to call the picture in an error.

    Raises:
        DataProblem: it cannot be read as a picture.
    """
    try:
        with Image.open(io.BytesIO(content) if content is not None else str(path)) as picture:
            picture.seek(0)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        reason = first_line(error)
        reason = re.sub(r"<_io\.BytesIO object at \w+>", "the file", reason)
        raise DataProblem(f"{where}: not a readable image ({reason})") from error


def convert_channels(picture: Image.Image, channels: int) -> Image.Image:
    """To 8-bit grey, RGB or RGBA. Deeper greys are scaled, not clipped; transparency is laid over white."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        top_of_floats = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
        top = top_of_floats if picture.mode == "F" else 65535.0
        picture = Image.fromarray((np.clip(values / top, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    transparent = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    if transparent and channels != 4:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert(CHANNEL_MODES[channels])


def resize(picture: Image.Image, size: int, mode: str, crop_at: tuple[float, float]) -> Image.Image:
    """To ``size`` x ``size`` pixels, bilinear and antialiased.

    Args:
        mode: ``squash`` ignores the proportions; ``crop`` scales the shorter side and cuts the longer one.
        crop_at: with ``crop``, how far from the left and from the top to cut, each from 0 to 1.
    """
    if mode == "crop":
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = round(crop_at[0] * (width - size)), round(crop_at[1] * (height - size))
        return picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    if picture.size == (size, size):
        return picture
    return picture.resize((size, size), Image.Resampling.BILINEAR)


# --- data sets -----------------------------------------------------------------------------------------------------


def load_digits_dataset() -> Any:
    """The 1,797 handwritten digits that scikit-learn ships, 8x8 grey, with labels, as a Hugging Face data set."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = (digits.images * (255.0 / 16.0)).round().astype(np.uint8)
    files = []
    for pixels in pictures:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="png")
        files.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    return Dataset.from_dict({"image": files, "label": digits.target.tolist()}, features=features)


def load_hf_dataset(config: TrainingConfig) -> Any:
    """The data set that the configuration names.

    Raises:
        DataProblem: it is not there, is empty, or has no such split.
    """
    if config.dataset_name in BUILT_IN_DATASETS:
        return load_digits_dataset()
    import datasets

    if config.train_data_dir is not None:
        dataset = _load_folder(config)
    elif _is_local_folder(str(config.dataset_name)):
        dataset = _load_saved(str(config.dataset_name))
    else:
        try:
            dataset = datasets.load_dataset(
                config.dataset_name, config.dataset_config_name, split=config.dataset_split, cache_dir=config.cache_dir
            )
        except Exception as error:  # the Hub's client raises a dozen kinds
            reason = first_line(error)
            raise DataProblem(
                f"--dataset_name {config.dataset_name}: not found or not reachable ({reason}). "
                "A data set on this machine is given by --train_data_dir, or by a folder's path as --dataset_name"
            ) from error
    if isinstance(dataset, dict):
        if config.dataset_split not in dataset:
            raise DataProblem(f"--dataset_split {config.dataset_split}: the data set has {', '.join(dataset)}")
        dataset = dataset[config.dataset_split]
    return dataset


def _is_local_folder(name: str) -> bool:
    """Whether a data set's name means a folder here: one that looks like a path, or that save_to_disk wrote."""
    path = Path(name)
    return name.startswith((".", "/", "~")) or any(
        (path / file).is_file() for file in ("dataset_info.json", "dataset_dict.json", "state.json")
    )


def _load_saved(folder: str) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(folder)
    except Exception as error:
        raise DataProblem(
            f"--dataset_name {folder}: is not a folder written by save_to_disk; "
            "a folder of images is given by --train_data_dir"
        ) from error


def _load_folder(config: TrainingConfig) -> Any:
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    folder = Path(str(config.train_data_dir))
    flag = f"--train_data_dir {folder}"
    if not folder.is_dir():
        raise DataProblem(f"{flag}: no such folder")
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        raise DataProblem(f"{flag}: the folder is empty")
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _load_saved(str(folder))
    images = [path for path in files if path.suffix.lower() in ImageFolder.EXTENSIONS]
    if not images and not any(path.suffix == ".parquet" for path in files):
        raise DataProblem(f"{flag}: holds no images and no parquet files")
    options: dict[str, Any] = {"data_dir": str(folder), "split": config.dataset_split, "cache_dir": config.cache_dir}
    # Folders called train, test or validation are splits to `datasets`, which then ignores all others beside them.
    top = {path.relative_to(folder).parts[0] for path in images}
    if images and not all(re.match(r"(train|test|val|valid|validation|dev|eval)\b", name) for name in top):
        options["data_files"] = {config.dataset_split: ["**"]}
    try:
        return datasets.load_dataset("imagefolder" if images else "parquet", **options)
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise DataProblem(f"{flag}: cannot be read as a data set ({reason})") from error


def find_image_column(dataset: Any, wanted: str | None) -> str:
    """The column that holds images: the one named, or the only one whose feature type says so.

    Raises:
        DataProblem: there is none, there are several, or the one named is no image column.
    """
    from datasets import Image as ImageFeature
    from datasets import Value

    images = [name for name, feature in dataset.features.items() if isinstance(feature, ImageFeature)]
    # Parquet files written without data sets' metadata keep images as {bytes, path}.
    images += [n for n, f in dataset.features.items() if isinstance(f, dict) and set(f) == {"bytes", "path"}]
    if wanted is not None:
        if wanted not in dataset.features:
            raise DataProblem(f"--image_column {wanted}: the data set has {', '.join(dataset.features)}")
        if wanted not in images and dataset.features[wanted] not in (Value("binary"), Value("large_binary")):
            raise DataProblem(
                f"--image_column {wanted}: is not a column of images; these are: {', '.join(images) or 'none'}"
            )
        return wanted
    if len(images) == 1:
        return images[0]
    if not images:
        raise DataProblem(f"--image_column: no column of images found among {', '.join(dataset.features)}")
    raise DataProblem(f"--image_column: several columns hold images ({', '.join(images)}); name one")


@dataclass
class ImageRecords:
    """A data set seen as pictures: ``picture(i, crop_at)`` gives uint8 pixels of shape (channels, size, size)."""

    dataset: Any
    column: str
    size: int
    channels: int
    resize_mode: str
    random_crop: bool
    random_flip: bool
    cached: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def original(self, index: int) -> Image.Image:
        """The picture as it is stored, upright."""
        record = self.dataset[int(index)][self.column]
        if record is None or (record.get("bytes") is None and record.get("path") is None):
            raise DataProblem(f"image {index} of the data set, column '{self.column}': is missing")
        where = record.get("path") or f"image {index} of the data set, column '{self.column}'"
        return decode_image(record.get("bytes"), record.get("path"), where)

    def picture(self, index: int, crop_at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
        if self.cached is not None:
            return self.cached[index]
        picture = convert_channels(self.original(index), self.channels)
        if not self.random_crop:
            crop_at = (0.5, 0.5)
        pixels = np.asarray(resize(picture, self.size, self.resize_mode, crop_at), dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def cache(self, limit_mib: int, show_progress: bool) -> None:
        """Decode every picture once and keep it, if the pictures fit and do not change from epoch to epoch."""
        num_bytes = len(self) * self.channels * self.size**2
        if self.random_crop or num_bytes > limit_mib * 2**20:
            return
        cached = np.empty((len(self), self.channels, self.size, self.size), dtype=np.uint8)
        indices = tqdm(range(len(self)), desc="reading images", unit="img", disable=not show_progress, leave=False)
        for index in indices:
            cached[index] = self.picture(index)
        self.cached = cached

    def fingerprint(self) -> str:
        """Names the pictures by what they hold, not by where they lie: of up to 32 of them, evenly spread."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in np.linspace(0, len(self) - 1, num=min(32, len(self))).astype(int):
            record = self.dataset[int(index)][self.column] or {}
            content = record.get("bytes")
            if content is None and record.get("path"):
                content = Path(record["path"]).read_bytes()
            digest.update(hashlib.sha256(content or b"").digest())
        return digest.hexdigest()[:16]


def open_records(config: TrainingConfig) -> ImageRecords:
    """Find the data set and its images.

    Raises:
        DataProblem: see :func:`load_hf_dataset` and :func:`find_image_column`; or fewer images than a batch.
    """
    from datasets import Image as ImageFeature

    dataset = load_hf_dataset(config)
    column = find_image_column(dataset, config.image_column)
    dataset = dataset.select_columns([column]).cast_column(column, ImageFeature(decode=False))
    if len(dataset) == 0:
        raise DataProblem("the data set has no images")
    flip = config.random_flip if config.random_flip is not None else config.dataset_name not in BUILT_IN_DATASETS
    crop = config.resize_mode == "crop" or config.center_crop
    return ImageRecords(
        dataset=dataset,
        column=column,
        size=config.image_size,
        channels=config.channels,
        resize_mode="crop" if crop else "squash",
        random_crop=crop and not config.center_crop,
        random_flip=flip,
    )


# --- batches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How a run walks through its data. A *global batch* is ``world_size`` batches, one for each rank.

    Every sample is seen once in an epoch: the last global batch is filled up with samples of weight 0, so that the
    shape stays what it was and the filling counts for nothing.
    """

    seed: int
    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.num_samples // self.global_batch_size)

    def positions(self, batch_number: int) -> tuple[int, np.ndarray]:
        """Epoch, and this rank's places in the epoch's order; places past the end are filling."""
        epoch, batch = divmod(batch_number, self.batches_per_epoch)
        start = batch * self.global_batch_size + self.rank * self.batch_size
        return epoch, np.arange(start, start + self.batch_size)


class BatchSource:
    """Random access to the batches of a run, from number ``first`` on, for ``GeneratorDataset``.

    Item ``i`` is ``make_batch(indices, generators)`` for batch ``first + i``, followed by the weights: float32 of shape
    (batch,), 1 for a sample and 0 for filling.
    """

    def __init__(
        self,
        plan: Plan,
        make_batch: Callable[[np.ndarray, list[np.random.Generator]], tuple[np.ndarray, ...]],
        first: int,
        count: int,
    ):
        self.plan, self.make_batch, self.first, self.count = plan, make_batch, first, count
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[np.ndarray, ...]:
        try:
            plan = self.plan
            epoch, places = plan.positions(self.first + int(item))
            if self._order[0] != epoch:
                self._order = (epoch, epoch_order(plan.seed, epoch, plan.num_samples))
            weights = (places < plan.num_samples).astype(np.float32)
            indices = self._order[1][places % plan.num_samples]
            generators = [
                random_stream(plan.seed, SAMPLE_STREAM, epoch * plan.num_samples + int(place)) for place in places
            ]
            return (*self.make_batch(indices, generators), weights)
        except DataProblem as problem:
            # MindSpore wraps what a source raises in its own text; the marks let `batches` find the message again.
            raise DataProblem(f"<<<{problem}>>>") from problem


def make_loader(source: BatchSource, columns: Sequence[str], num_workers: int) -> Any:
    """A ``GeneratorDataset`` over whole batches, in order, decoded ahead by a thread or by worker processes."""
    import mindspore.dataset as ms_dataset

    num_workers = min(num_workers, os.cpu_count() or 1)  # MindSpore refuses more
    ms_dataset.config.set_prefetch_size(4)  # batches, not samples: 16, the default, would take memory for nothing
    return ms_dataset.GeneratorDataset(
        source,
        column_names=list(columns),
        shuffle=False,
        num_parallel_workers=max(1, num_workers),
        python_multiprocessing=num_workers > 1,
    )


def batches(loader: Any) -> Iterator[list[Any]]:
    """The loader's batches as MindSpore tensors.

    Raises:
        DataProblem: a picture cannot be read; the message names it.
    """
    iterator = loader.create_tuple_iterator(num_epochs=1, do_copy=False)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            found = re.findall(r"<<<(.*?)>>>", str(error), re.DOTALL)  # the text also quotes the line that raised
            if found:
                raise DataProblem(found[-1]) from None
            raise
        yield batch

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from mindone_ddpm.config import BUILT_IN_DATASETS, EngineConfig, Problem, TrainingConfig, first_line

CHANNEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# The use that a random stream is for; part of its key, so that no two streams are alike.
ORDER_STREAM, SAMPLE_STREAM, PICTURE_STREAM, SPLIT_STREAM, VALIDATION_STREAM = range(1, 6)


IMAGE_ENDINGS = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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


def batch_places(first: int, batch_size: int, count: int) -> list[int]:
    """Which of ``count`` things the batch from ``first`` on holds: filled up with the last, so that its size stays."""
    return [min(first + place, count - 1) for place in range(batch_size)]


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


def decode_precise(content: bytes | None, path: str | None, where: str) -> np.ndarray:
    """Decode one picture at the precision it has: float32 in [0, 1], shape (height, width, 1, 2, 3 or 4).

    Pillow rounds 16-bit colours to 8 bits, so OpenCV reads what is deeper than that.

    Raises:
        DataProblem: it cannot be read as a picture.
    """
    import cv2

    data = content if content is not None else Path(str(path)).read_bytes()
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if values is None or values.dtype == np.uint8:
        picture = decode_image(content, path, where)
        if picture.mode in ("P", "PA", "1", "CMYK", "YCbCr", "LAB", "HSV") or "transparency" in picture.info:
            picture = picture.convert("RGBA" if "transparency" in picture.info or picture.mode == "PA" else "RGB")
        values = np.asarray(picture)
    else:
        values = values[..., None] if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]  # from BGR
    values = np.atleast_3d(values)
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    else:
        top = 255.0 if values.dtype == np.uint8 else 65535.0
    return np.clip(values.astype(np.float32) / np.float32(top), 0.0, 1.0)


def convert_precise_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """:func:`convert_channels` for float32 of shape (height, width, channels), by the same formulas."""
    colours, alpha = (values[..., :-1], values[..., -1:]) if values.shape[2] in (2, 4) else (values, None)
    if channels == 4:
        alpha = np.ones_like(values[..., :1]) if alpha is None else alpha
        return np.concatenate([np.broadcast_to(colours, (*colours.shape[:2], 3)), alpha], axis=2)
    if alpha is not None:
        colours = colours * alpha + (1.0 - alpha)  # over white
    if channels == 1 and colours.shape[2] == 3:
        return (colours @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]  # ITU-R BT.601, as Pillow's L
    return np.broadcast_to(colours, (*colours.shape[:2], channels))


def resize(
    picture: Image.Image, size: int, mode: str, crop_at: tuple[float, float], interpolation: str = "bilinear"
) -> Image.Image:
    """To ``size`` x ``size`` pixels, antialiased.

    Args:
        mode: ``squash`` ignores the proportions; ``crop`` scales the shorter side and cuts the longer one.
        crop_at: with ``crop``, how far from the left and from the top to cut, each from 0 to 1.
    """
    resampling = RESAMPLING[interpolation]
    if mode == "crop":
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = round(crop_at[0] * (width - size)), round(crop_at[1] * (height - size))
        return picture.resize((width, height), resampling).crop((left, top, left + size, top + size))
    if picture.size == (size, size):
        return picture
    return picture.resize((size, size), resampling)


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


def load_hf_dataset(config: EngineConfig) -> Any:
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
                config.dataset_name,
                config.dataset_config_name,
                split=config.dataset_split,
                cache_dir=config.cache_dir,
                streaming=config.streaming,
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


def _load_folder(config: EngineConfig) -> Any:
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
    options["streaming"] = config.streaming
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
class Labels:
    """The classes of a data set: ``numbers`` int64 of shape (num_samples,), each an index into ``names``.

    With a stream the numbers are not known beforehand, and ``numbers`` is None.
    """

    column: str
    names: list[str]
    numbers: np.ndarray | None


def find_labels(dataset: Any, wanted: str | None, is_stream: bool) -> Labels:
    """The column of classes: the one named, or the only ClassLabel column; numbers and names as they are.

    Raises:
        DataProblem: there is none, or a label is missing or out of range.
    """
    from datasets import ClassLabel, Value

    features = dataset.features
    found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if wanted is not None and wanted not in features:
        raise DataProblem(f"--label_column {wanted}: the data set has {', '.join(features)}")
    if wanted is None and len(found) != 1:
        raise DataProblem(
            f"--label_column: {'several columns hold' if found else 'no column holds'} classes among "
            f"{', '.join(found or features)}; name one"
        )
    column = wanted or found[0]
    feature = features[column]
    if isinstance(feature, ClassLabel):
        names = [str(name) for name in feature.names or range(feature.num_classes)]
        numbers = None if is_stream else np.asarray(_whole_column(dataset, column, feature.num_classes))
        return Labels(column, names, numbers)
    if not isinstance(feature, Value) or (
        feature.dtype not in ("string", "large_string", "bool") and not (feature.dtype.startswith(("int", "uint")))
    ):
        raise DataProblem(f"--label_column {column}: holds {feature}, not classes (names or whole numbers)")
    if is_stream:
        raise DataProblem(
            f"--label_column {column}: with --streaming the classes must be known beforehand, as a ClassLabel column"
        )
    values = dataset[column][:]
    missing = next((number for number, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataProblem(f"image {missing} of the data set, column '{column}': the label is missing")
    classes = sorted(set(values))
    if len(classes) == len(values) > 100:
        raise DataProblem(f"--label_column {column}: every image has a label of its own; these are no classes")
    place = {value: number for number, value in enumerate(classes)}
    return Labels(column, [str(value) for value in classes], np.asarray([place[value] for value in values]))


def _whole_column(dataset: Any, column: str, num_classes: int) -> list[int]:
    values = dataset[column][:]
    for number, value in enumerate(values):
        check_label(value, num_classes, f"image {number} of the data set, column '{column}'")
    return values


def check_label(value: Any, num_classes: int, where: str) -> int:
    """Raises DataProblem if it is no class."""
    if value is None or not 0 <= value < num_classes:
        raise DataProblem(f"{where}: the label {value} is not among the {num_classes} classes")
    return int(value)


@dataclass
class ImageRecords:
    """A data set seen as pictures: ``picture(i, crop_at)`` gives pixels of shape (channels, size, size).

    They are uint8 or, with ``precise``, float32 in [0, 1].
    """

    dataset: Any
    column: str
    size: int
    channels: int
    resize_mode: str
    random_crop: bool
    random_flip: bool
    interpolation: str = "bilinear"
    random_vertical_flip: bool = False
    precise: bool = False
    labels: Labels | None = None
    cached: np.ndarray | None = None
    held_out: ImageRecords | None = None  # not trained on; see open_records

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def half_range(self) -> float:
        """What divides a pixel, before 1 is taken away, to bring it to [-1, 1]."""
        return 0.5 if self.precise else 127.5

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of an epoch's samples, in the order they come; int64 of shape (num_samples,)."""
        return epoch_order(seed, epoch, len(self))

    def record(self, index: int) -> dict[str, Any]:
        return self.dataset[int(index)]

    def label(self, index: int) -> int:
        """The class of a picture."""
        assert self.labels is not None and self.labels.numbers is not None
        return int(self.labels.numbers[index])

    def _stored(self, index: int) -> tuple[bytes | None, str | None, str]:
        image = self.record(index)[self.column]
        if image is None or (image.get("bytes") is None and image.get("path") is None):
            raise DataProblem(f"image {index} of the data set, column '{self.column}': is missing")
        where = image.get("path") or f"image {index} of the data set, column '{self.column}'"
        return image.get("bytes"), image.get("path"), where

    def original(self, index: int) -> Image.Image:
        """The picture as it is stored, upright."""
        return decode_image(*self._stored(index))

    def picture(self, index: int, crop_at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
        if self.cached is not None:
            return self.cached[index]
        if not self.random_crop:
            crop_at = (0.5, 0.5)
        if self.precise:
            values = convert_precise_channels(decode_precise(*self._stored(index)), self.channels)
            planes = [Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(self.channels)]
            resized = [resize(plane, self.size, self.resize_mode, crop_at, self.interpolation) for plane in planes]
            return np.clip(np.stack([np.asarray(plane) for plane in resized]), 0.0, 1.0)
        picture = convert_channels(self.original(index), self.channels)
        pixels = np.asarray(resize(picture, self.size, self.resize_mode, crop_at, self.interpolation), dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def training_picture(self, index: int, generator: np.random.Generator) -> np.ndarray:
        """The picture as one sample of an epoch sees it, flipped and cropped by three draws, in [-1, 1] as float32."""
        flip, across, down = generator.random(3)
        picture = self.picture(index, (across, down))
        if self.random_flip and flip < 0.5:
            picture = picture[:, :, ::-1]
        if self.random_vertical_flip and generator.random() < 0.5:
            picture = picture[:, ::-1]
        return np.divide(picture, self.half_range, dtype=np.float32) - np.float32(1.0)

    def cache(self, limit_mib: int, show_progress: bool) -> None:
        """Decode every picture once and keep it, if the pictures fit and do not change from epoch to epoch."""
        dtype = np.dtype(np.float32 if self.precise else np.uint8)
        num_bytes = len(self) * self.channels * self.size**2 * dtype.itemsize
        if self.random_crop or num_bytes > limit_mib * 2**20:
            return
        cached = np.empty((len(self), self.channels, self.size, self.size), dtype=dtype)
        indices = tqdm(range(len(self)), desc="reading images", unit="img", disable=not show_progress, leave=False)
        for index in indices:
            cached[index] = self.picture(index)
        self.cached = cached

    def fingerprint(self, most: int = 32) -> str:
        """Names the pictures by what they hold, not by where they lie: of up to ``most`` of them, evenly spread."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in np.linspace(0, len(self) - 1, num=min(most, len(self))).astype(int):
            digest.update(content_digest(self.record(int(index))[self.column] or {}))
        return digest.hexdigest()[:16]


def content_digest(image: dict[str, Any]) -> bytes:
    content = image.get("bytes")
    if content is None and image.get("path"):
        content = Path(image["path"]).read_bytes()
    return hashlib.sha256(content or b"").digest()


@dataclass
class StreamedRecords(ImageRecords):
    """Pictures of a stream. Index ``i`` is place ``i % num_samples`` of epoch ``i // num_samples``.

    The stream is shuffled in a buffer, by the seed and the epoch. Going forward reads on; going back reads the epoch
    again from its beginning, without decoding what is passed over. So a batch is the same however it is reached.
    """

    num_samples: int = 0
    seed: int = 0
    buffer_size: int = 1
    _epoch: int = -1
    _next_place: int = 0
    _records: Iterator[dict[str, Any]] | None = None
    _current: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.arange(epoch * self.num_samples, (epoch + 1) * self.num_samples)

    def record(self, index: int) -> dict[str, Any]:
        index = int(index)
        if self._current is not None and self._current[0] == index:
            return self._current[1]
        epoch, place = divmod(index, self.num_samples)
        if epoch != self._epoch or place < self._next_place or self._records is None:
            stream = self.dataset
            if self.buffer_size > 1:
                stream = stream.shuffle(seed=self.seed, buffer_size=self.buffer_size)
                stream.set_epoch(epoch)
            self._records, self._epoch, self._next_place = iter(stream), epoch, 0
        record: dict[str, Any] = {}
        while self._next_place <= place:
            try:
                record = next(self._records)
            except StopIteration:
                raise DataProblem(
                    f"--streaming: the stream ended after {self._next_place:,} of {self.num_samples:,} images; give "
                    f"--max_train_samples {self._next_place}"
                ) from None
            self._next_place += 1
        self._current = (index, record)
        return record

    def label(self, index: int) -> int:
        assert self.labels is not None
        value = self.record(index)[self.labels.column]
        where = f"image {index} of the stream, column '{self.labels.column}'"
        return check_label(value, len(self.labels.names), where)

    def cache(self, limit_mib: int, show_progress: bool) -> None:
        """A stream is not kept."""

    def fingerprint(self, most: int = 32) -> str:
        """Of the stream's first eight pictures."""
        digest = hashlib.sha256(str(len(self)).encode())
        for record in self.dataset.take(8):
            digest.update(content_digest(record[self.column] or {}))
        return digest.hexdigest()[:16]


def _stream_length(dataset: Any, config: EngineConfig) -> int:
    """How many images an epoch of a stream has: what the user says, or what the data set says of itself.

    Raises:
        DataProblem: neither does.
    """
    if config.max_train_samples is not None:
        return config.max_train_samples
    splits = getattr(dataset.info, "splits", None) or {}
    split = splits.get(config.dataset_split.split("[")[0])
    if split is None or not split.num_examples:
        raise DataProblem("--streaming: this stream does not say how long it is; give --max_train_samples")
    return split.num_examples


def open_dataset(config: EngineConfig) -> tuple[Any, str]:
    """The data set, cut to ``max_train_samples``, and its column of images, not decoded.

    Raises:
        DataProblem: see :func:`load_hf_dataset` and :func:`find_image_column`; or it has no images.
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
        raise DataProblem("the data set has no images")
    if config.max_train_samples is not None and config.max_train_samples < len(dataset):
        dataset = dataset.select(range(config.max_train_samples))
    return (dataset.to_iterable_dataset() if config.streaming else dataset), column


def open_records(config: TrainingConfig) -> ImageRecords:
    """Find the data set, its images and, for a class-conditional model, its labels.

    With ``validation_split`` or ``validation_data_dir`` they have others beside them that are not trained on.

    Raises:
        DataProblem: see :func:`open_dataset`, :func:`find_labels`, :func:`split`.
    """
    dataset, column = open_dataset(config)
    labels = find_labels(dataset, config.label_column, config.streaming) if config.class_conditional else None
    records = make_records(config, dataset, column, config.channels, config.preserve_input_precision, labels)
    if config.validation_split:
        return split(records, config.validation_split)
    if config.validation_data_dir is not None:
        records.held_out = open_validation_folder(config, labels)
    return records


def split(records: ImageRecords, share: float) -> ImageRecords:
    """Put a share of the images aside: always the same ones, whatever the run's seed, so that runs compare.

    Raises:
        DataProblem: nothing would be left of one of the two.
    """
    count = round(len(records) * share)
    if not 0 < count < len(records):
        raise DataProblem(
            f"--validation_split {share:g}: puts {count} of {len(records)} images aside; both parts need some"
        )
    order = random_stream(0, SPLIT_STREAM).permutation(len(records))

    def part(indices: np.ndarray) -> ImageRecords:
        labels = records.labels
        if labels is not None and labels.numbers is not None:
            labels = replace(labels, numbers=labels.numbers[indices])
        return replace(records, dataset=records.dataset.select(indices), labels=labels)

    training = part(np.sort(order[count:]))
    training.held_out = part(np.sort(order[:count]))
    return training


def open_validation_folder(config: TrainingConfig, labels: Labels | None) -> ImageRecords:
    folder = config.validation_data_dir
    changes: dict[str, Any] = dict.fromkeys(
        ("dataset_name", "dataset_config_name", "validation_data_dir", "max_train_samples", "image_column")
    )
    try:
        held_out = open_records(replace(config, **changes, train_data_dir=folder, streaming=False))
    except DataProblem as problem:
        raise DataProblem(f"--validation_data_dir {folder}: {problem}") from problem
    if labels is not None and held_out.labels is not None and held_out.labels.names != labels.names:
        raise DataProblem(
            f"--validation_data_dir {folder}: its classes are {', '.join(held_out.labels.names)}, but those trained on "
            f"are {', '.join(labels.names)}"
        )
    return held_out


def make_records(
    config: EngineConfig,
    dataset: Any,
    column: str,
    channels: int,
    precise: bool = False,
    labels: Labels | None = None,
    other_columns: Sequence[str] = (),
) -> ImageRecords:
    """A data set's images as a configuration wants them cut, turned and cropped."""
    columns = [column, *other_columns, *([] if labels is None else [labels.column])]
    flip = config.random_flip if config.random_flip is not None else config.dataset_name not in BUILT_IN_DATASETS
    crop = config.resize_mode == "crop" or config.center_crop
    common: dict[str, Any] = {
        "dataset": dataset.select_columns(columns),
        "column": column,
        "size": config.image_size,
        "channels": channels,
        "resize_mode": "crop" if crop else "squash",
        "random_crop": crop and not config.center_crop,
        "random_flip": flip,
        "interpolation": config.image_interpolation_mode,
        "random_vertical_flip": config.random_vertical_flip,
        "precise": precise,
        "labels": labels,
    }
    if not config.streaming:
        return ImageRecords(**common)
    length = _stream_length(dataset, config)
    return StreamedRecords(**common, num_samples=length, seed=config.seed, buffer_size=config.streaming_buffer_size)


# --- batches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How a run walks through its data. A *global batch* is ``world_size`` batches, one for each rank.

    Every sample is seen once in an epoch: the last global batch is filled up with samples of weight 0, so that the
    shape stays what it was and the filling counts for nothing. With ``drop_last`` an epoch ends before a batch that is
    not full, and leaves other samples out each time.
    """

    seed: int
    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def samples_per_epoch(self) -> int:
        return min(self.num_samples, self.batches_per_epoch * self.global_batch_size)

    def positions(self, batch_number: int) -> tuple[int, np.ndarray]:
        """Epoch, and this rank's places in the epoch's order; places past the end are filling."""
        epoch, batch = divmod(batch_number, self.batches_per_epoch)
        start = batch * self.global_batch_size + self.rank * self.batch_size
        return epoch, np.arange(start, start + self.batch_size)


class BatchSource:
    """Random access to the batches of a run, from number ``first`` on, for ``GeneratorDataset``.

    Item ``i`` is ``make_batch(indices, generators)`` for batch ``first + i``, followed by the weights: float32 of shape
    (batch,), 1 for a sample and 0 for filling. ``order(seed, epoch)`` says which index comes when.
    """

    def __init__(
        self,
        plan: Plan,
        make_batch: Callable[[np.ndarray, list[np.random.Generator]], tuple[np.ndarray, ...]],
        first: int,
        count: int,
        order: Callable[[int, int], np.ndarray] | None = None,
    ):
        self.plan, self.make_batch, self.first, self.count = plan, make_batch, first, count
        self.order = order
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[np.ndarray, ...]:
        try:
            plan = self.plan
            epoch, places = plan.positions(self.first + int(item))
            if self._order[0] != epoch:
                order = (
                    epoch_order(plan.seed, epoch, plan.num_samples)
                    if self.order is None
                    else self.order(plan.seed, epoch)
                )
                self._order = (epoch, order)
            weights = (places < plan.num_samples).astype(np.float32)
            indices = self._order[1][np.minimum(places, plan.num_samples - 1)]
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

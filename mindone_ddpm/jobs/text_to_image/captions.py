"""Captions: where they are found, how one is chosen, and what the tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm.common.files import read_limited
from mindone_ddpm.data.datasets import open_dataset
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.open import make_records
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.text_to_image.buckets import add_buckets
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig

USUAL_NAMES = ("text", "caption", "captions", "prompt")
MOST_CAPTION_BYTES = 100_000  # of a text file


@dataclass(frozen=True)
class Texts:
    """The captions of each image of a data set.

    Attributes:
        origin: where they were found, for the plan.
        read: those of an image by its index, at least one.
        known: those of all images; None for a stream.
    """

    origin: str
    read: Callable[[int], Sequence[str]]
    known: Sequence[Sequence[str]] | None = None


def known_texts(origin: str, texts: Sequence[Sequence[str]]) -> Texts:
    return Texts(origin, lambda index: texts[index], texts)


def same_texts(texts: Sequence[str], count: int, origin: str) -> Texts:
    """The same captions for each of ``count`` images."""
    return known_texts(origin, [texts] * count)


# --- finding them --------------------------------------------------------------------------------------------------


def open_captioned(config: TextToImageConfig) -> tuple[ImageRecords, Texts]:
    """The images of a data set and their captions: the one that is given for all, those of a column, or those of text
    files beside the images.

    Raises:
        DataError: see :func:`mindone_ddpm.data.open_dataset` and :func:`find_caption_column`; or images have none.
    """
    records, texts = _open_with_captions(config)
    return add_buckets(config, records), texts


def _open_with_captions(config: TextToImageConfig) -> tuple[ImageRecords, Texts]:
    dataset, column = open_dataset(config)
    if config.instance_prompt is not None:
        records = make_records(config, dataset, column, channels=3, seed=config.seed)
        texts = [_with_trigger(config.instance_prompt, config.trigger_word)]
        known = None if config.streaming else [texts] * len(records)
        return records, Texts(f"one caption for all: {texts[0]}", lambda index: texts, known)
    if config.caption_column is None and not text_columns(dataset) and _has_text_files(dataset, column):
        records = make_records(config, dataset, column, channels=3, seed=config.seed)
        return records, _texts_of_files(config, records)
    caption_column = find_caption_column(dataset, config.caption_column)
    records = make_records(config, dataset, column, channels=3, other_columns=[caption_column], seed=config.seed)
    return records, _texts_of_column(config, records, caption_column)


def _with_trigger(text: str, trigger_word: str | None) -> str:
    return text if trigger_word is None else f"{trigger_word}, {text}" if text else trigger_word


def text_columns(dataset: Any) -> list[str]:
    """The columns that hold a text, or a list of texts."""
    return [name for name, feature in dataset.features.items() if _is_text(feature)]


def find_caption_column(dataset: Any, wanted: str | None) -> str:
    """The column of captions: the one named, one with a usual name, or the only one that holds text.

    Raises:
        DataError: there is none, there are several, or the one named holds no text.
    """
    features, texts = dataset.features, text_columns(dataset)
    if wanted is not None:
        if wanted not in features:
            raise DataError(f"--caption_column {wanted}: the data set has {', '.join(features)}")
        if wanted not in texts:
            raise DataError(f"--caption_column {wanted}: holds {features[wanted]}; texts or lists of texts are needed")
        return wanted
    usual = [name for name in USUAL_NAMES if name in texts]
    if usual:
        return usual[0]
    if len(texts) != 1:
        held = (
            f"several columns hold text ({', '.join(texts)}); name one"
            if texts
            else (
                f"no column of captions among {', '.join(features)}; give images a metadata.jsonl or metadata.csv with "
                "file_name and text, a .txt file each, or one --instance_prompt for all"
            )
        )
        raise DataError(f"--caption_column: {held}")
    return texts[0]


def _is_text(feature: Any) -> bool:
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _texts_of_column(config: TextToImageConfig, records: ImageRecords, column: str) -> Texts:
    def checked(value: Any, where: str) -> list[str]:
        texts = [value] if isinstance(value, str) else list(value or [])
        if not texts or any(not isinstance(text, str) for text in texts):
            raise DataError(f"{where}, column '{column}': has no caption; give one, if only an empty text")
        return [_with_trigger(text, config.trigger_word) for text in texts]

    origin = f"captions from column '{column}'"
    if config.streaming:
        return Texts(origin, lambda index: checked(records.record(index)[column], f"image {index} of the stream"))
    values = records.dataset[column][:]
    return known_texts(origin, [checked(value, f"image {n} of the data set") for n, value in enumerate(values)])


def _text_file(stored: dict[str, Any]) -> Path | None:
    """Where the captions of a stored image would be; None if it is no file of its own."""
    return Path(stored["path"]).with_suffix(".txt") if stored.get("path") and not stored.get("bytes") else None


def _has_text_files(dataset: Any, column: str) -> bool:
    first = next(iter(dataset.select_columns([column]).take(1)), None)
    path = None if first is None else _text_file(first[column])
    return path is not None and any(path.parent.glob("*.txt"))


def _texts_of_files(config: TextToImageConfig, records: ImageRecords) -> Texts:
    """Each line of an image's text file that is not empty is a caption; an empty file is an empty caption."""

    def read(index: int) -> list[str]:
        path = _text_file(records.record(index)[records.column])
        if path is None or not path.is_file():
            return []
        try:
            text = read_limited(path, MOST_CAPTION_BYTES).decode("utf-8-sig")
            lines = [line.strip() for line in text.splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: the caption cannot be read ({error})") from error
        return [_with_trigger(line, config.trigger_word) for line in lines if line] or [
            _with_trigger("", config.trigger_word)
        ]

    def read_or_refuse(index: int) -> list[str]:
        texts = read(index)
        if not texts:
            name = Path(records.record(index)[records.column]["path"]).name
            raise DataError(
                f"{name}: has no caption; put it into {Path(name).stem}.txt beside it, if only an empty one"
            )
        return texts

    origin = "captions from the .txt files beside the images"
    if config.streaming:
        return Texts(origin, read_or_refuse)
    known = [read(index) for index in range(len(records))]
    missing = [index for index, texts in enumerate(known) if not texts]
    if missing:
        names = [Path(records.record(index)[records.column]["path"]).name for index in missing[:3]]
        more = ", ..." if len(missing) > len(names) else ""
        raise DataError(
            f"{len(missing):,} of {len(known):,} images have no .txt file with a caption beside them "
            f"({', '.join(names)}{more}); give them one, if only an empty one"
        )
    return known_texts(origin, known)


# --- using them ----------------------------------------------------------------------------------------------------


class Captions:
    """The captions of a data set, and their tokens, one kind for each text encoder."""

    def __init__(self, texts: Texts, *tokenizers: Any):
        self.texts, self.tokenizers = texts, tokenizers
        self.num_truncated = self._count_truncated()

    def _count_truncated(self) -> int:
        texts = self.all_texts
        bar = tqdm(range(0, len(texts), 1000), desc="reading captions", disable=len(texts) < 20_000, leave=False)
        tokenizer = self.tokenizers[0]
        longest = tokenizer.model_max_length
        return sum(
            len(tokens) > longest
            for start in bar
            for tokens in tokenizer(texts[start : start + 1000], truncation=False, verbose=False).input_ids
        )

    def describe(self) -> str:
        """For the plan: where they are from, and how many the tokenizer cuts off."""
        if not self.num_truncated:
            return self.texts.origin
        longest = self.tokenizers[0].model_max_length
        return f"{self.texts.origin}; {self.num_truncated:,} are longer than {longest} tokens and are cut off there"

    def choose(self, index: int, choice: float) -> str:
        """One of an image's captions, by a number from 0 to 1."""
        texts = self.texts.read(int(index))
        return texts[int(choice * len(texts))]

    def tokens(self, texts: Sequence[str], which: int = 0) -> np.ndarray:
        """Int32 of shape (len(texts), the tokenizer's length), padded and truncated. ``which``: of the tokenizers."""
        tokenizer = self.tokenizers[which]
        ids = tokenizer(
            list(texts), max_length=tokenizer.model_max_length, padding="max_length", truncation=True
        ).input_ids
        return np.asarray(ids, np.int32)

    @property
    def all_texts(self) -> list[str]:
        """Every caption once, and the empty one; of a stream, only that."""
        return sorted({"", *(text for group in self.texts.known or [] for text in group)})

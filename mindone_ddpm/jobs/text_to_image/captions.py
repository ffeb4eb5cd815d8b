"""Captions: where they are found, how one is chosen, and what the tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm.data.datasets import open_dataset
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.open import make_records
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig

USUAL_NAMES = ("text", "caption", "captions", "prompt")


def find_caption_column(dataset: Any, wanted: str | None) -> str:
    """The column of captions: the one named, one with a usual name, or the only one that holds text.

    Raises:
        DataError: there is none, there are several, or the one named holds no text.
    """
    features = dataset.features
    texts = [name for name, feature in features.items() if _is_text(feature)]
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
                f"no column of captions among {', '.join(features)}; a folder of images needs a metadata.jsonl with "
                "file_name and text"
            )
        )
        raise DataError(f"--caption_column: {held}")
    return texts[0]


def _is_text(feature: Any) -> bool:
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")


class Captions:
    """The captions of a data set, and their tokens.

    Raises:
        DataError: an image has no caption.
    """

    def __init__(self, records: ImageRecords, column: str, tokenizer: Any, is_stream: bool = False):
        self.records, self.column, self.tokenizer = records, column, tokenizer
        self.known: list[list[str]] | None = None
        self.num_truncated = 0
        if not is_stream:
            values = records.dataset[column][:]
            self.known = [self._texts(value, f"image {number} of the data set") for number, value in enumerate(values)]
            self.num_truncated = self._count_truncated()

    def _texts(self, value: Any, where: str) -> list[str]:
        texts = [value] if isinstance(value, str) else list(value or [])
        if not texts or any(not isinstance(text, str) for text in texts):
            raise DataError(f"{where}, column '{self.column}': has no caption; give one, if only an empty text")
        return texts

    def _count_truncated(self) -> int:
        texts = self.all_texts
        bar = tqdm(range(0, len(texts), 1000), desc="reading captions", disable=len(texts) < 20_000, leave=False)
        longest = self.tokenizer.model_max_length
        return sum(
            len(tokens) > longest
            for start in bar
            for tokens in self.tokenizer(texts[start : start + 1000], truncation=False, verbose=False).input_ids
        )

    def remark(self) -> str:
        """For the plan: how many captions the tokenizer cuts off."""
        if not self.num_truncated:
            return ""
        longest = self.tokenizer.model_max_length
        return f"; {self.num_truncated:,} are longer than {longest} tokens and are cut off there"

    def choose(self, index: int, choice: float) -> str:
        """One of an image's captions, by a number from 0 to 1."""
        if self.known is not None:
            texts = self.known[int(index)]
        else:
            texts = self._texts(self.records.record(int(index))[self.column], f"image {index} of the stream")
        return texts[int(choice * len(texts))]

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Int32 of shape (len(texts), the tokenizer's length), filled up and cut off."""
        ids = self.tokenizer(
            list(texts), max_length=self.tokenizer.model_max_length, padding="max_length", truncation=True
        ).input_ids
        return np.asarray(ids, np.int32)

    @property
    def all_texts(self) -> list[str]:
        """Every caption once, and the empty one."""
        return sorted({"", *(text for group in self.known or [] for text in group)})


def open_captioned(config: TextToImageConfig) -> tuple[ImageRecords, str]:
    """The images of a data set, and the column of their captions.

    Raises:
        DataError: see :func:`mindone_ddpm.data.open_dataset` and :func:`find_caption_column`.
    """
    dataset, column = open_dataset(config)
    caption_column = find_caption_column(dataset, config.caption_column)
    records = make_records(config, dataset, column, channels=3, other_columns=[caption_column], seed=config.seed)
    return records, caption_column

"""The classes of a data set: which column holds them, their names, the class of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mindone_ddpm.data.images import DataError


@dataclass
class Labels:
    """The classes of a data set.

    Attributes:
        column: of the data set, that holds them.
        names: of the classes.
        class_ids: the class of each image, int64 of shape (num_samples,), indices into ``names``; None with a stream,
            whose labels are not known beforehand.
    """

    column: str
    names: list[str]
    class_ids: np.ndarray | None


def find_labels(dataset: Any, wanted: str | None, is_stream: bool) -> Labels:
    """Find the column of classes: the one named, or the only ClassLabel column.

    A ClassLabel column keeps its order of classes; the classes of another column are sorted.

    Args:
        dataset: a Hugging Face data set.
        wanted: the column's name; None: find it.

    Raises:
        DataError: there is none, or a label is missing or out of range.
    """
    from datasets import ClassLabel, Value

    features = dataset.features
    found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if wanted is not None and wanted not in features:
        raise DataError(f"--label_column {wanted}: the data set has {', '.join(features)}")
    if wanted is None and not found:
        raise DataError(
            f"--label_column: no column of {', '.join(features)} is known to hold classes; name one that does, or give "
            "a folder that holds a folder of images for each class, at least two"
        )
    if wanted is None and len(found) > 1:
        raise DataError(f"--label_column: several columns hold classes ({', '.join(found)}); name one")
    column = wanted or found[0]
    feature = features[column]
    if isinstance(feature, ClassLabel):
        names = [str(name) for name in feature.names or range(feature.num_classes)]
        class_ids = None if is_stream else np.asarray(_checked_column(dataset, column, feature.num_classes))
        return Labels(column, names, class_ids)
    if not isinstance(feature, Value) or (
        feature.dtype not in ("string", "large_string", "bool") and not (feature.dtype.startswith(("int", "uint")))
    ):
        raise DataError(f"--label_column {column}: holds {feature}, not classes (names or whole numbers)")
    if is_stream:
        raise DataError(
            f"--label_column {column}: with --streaming the classes must be known beforehand, as a ClassLabel column"
        )
    values = dataset[column][:]
    missing = next((index for index, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"image {missing} of the data set, column '{column}': the label is missing")
    classes = sorted(set(values))
    if len(classes) == len(values) > 100:
        raise DataError(f"--label_column {column}: every image has another label; these are not classes")
    class_id = {value: index for index, value in enumerate(classes)}
    return Labels(column, [str(value) for value in classes], np.asarray([class_id[value] for value in values]))


def _checked_column(dataset: Any, column: str, num_classes: int) -> list[int]:
    values = dataset[column][:]
    for index, value in enumerate(values):
        check_label(value, num_classes, f"image {index} of the data set, column '{column}'")
    return values


def check_label(value: Any, num_classes: int, where: str) -> int:
    """The class id of a label. ``where``: what holds it, in an error.

    Raises:
        DataError: it is not one of the classes.
    """
    if value is None or not 0 <= value < num_classes:
        raise DataError(f"{where}: the label {value} is not among the {num_classes} classes")
    return int(value)

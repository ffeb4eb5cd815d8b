"""Images in, batches out.

An :class:`ImageRecords` is a Hugging Face data set seen as pictures of one size; :func:`make_loader` feeds it to
MindSpore through a ``GeneratorDataset`` whose items are whole batches. What a batch holds is a function of the seed
and of its number alone: the order of an epoch, the flips, the noise and the timesteps come from counter-based
generators keyed by the position of a sample in the run, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mindone_ddpm.data.images import DataError


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
        DataError: there is none, or a label is missing or out of range.
    """
    from datasets import ClassLabel, Value

    features = dataset.features
    found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if wanted is not None and wanted not in features:
        raise DataError(f"--label_column {wanted}: the data set has {', '.join(features)}")
    if wanted is None and len(found) != 1:
        raise DataError(
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
        raise DataError(f"--label_column {column}: holds {feature}, not classes (names or whole numbers)")
    if is_stream:
        raise DataError(
            f"--label_column {column}: with --streaming the classes must be known beforehand, as a ClassLabel column"
        )
    values = dataset[column][:]
    missing = next((number for number, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"image {missing} of the data set, column '{column}': the label is missing")
    classes = sorted(set(values))
    if len(classes) == len(values) > 100:
        raise DataError(f"--label_column {column}: every image has a label of its own; these are no classes")
    place = {value: number for number, value in enumerate(classes)}
    return Labels(column, [str(value) for value in classes], np.asarray([place[value] for value in values]))


def _whole_column(dataset: Any, column: str, num_classes: int) -> list[int]:
    values = dataset[column][:]
    for number, value in enumerate(values):
        check_label(value, num_classes, f"image {number} of the data set, column '{column}'")
    return values


def check_label(value: Any, num_classes: int, where: str) -> int:
    """Raises DataError if it is no class."""
    if value is None or not 0 <= value < num_classes:
        raise DataError(f"{where}: the label {value} is not among the {num_classes} classes")
    return int(value)

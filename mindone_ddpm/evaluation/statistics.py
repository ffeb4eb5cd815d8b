"""Statistics of the features of a set of images: summed batch by batch, merged over ranks, written to files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import atomic_path, check_regular

INCEPTION_SCORE_SPLITS = 10
MOST_BYTES = 8 << 30  # unpacked; 2,048 features of a million images
NO_FEATURES = "these statistics hold no features: KID, precision and recall need them"


class MetricError(UserError):
    """A metric cannot be computed; the message is one line for the user."""


@dataclass
class Statistics:
    """Sums over the features of a set of images, from which the metrics are computed.

    Attributes:
        width: of the features.
        keeps_features: whether the features themselves are kept, which some metrics need.
        splits: of the inception score.
        count: images that were added.
        total: sum of the features, float64 of shape (width,).
        products: sum of the outer products of the features with themselves, float64 of shape (width, width).
        shares: sums of the class probabilities in each split, float64 of shape (splits, classes); None without logits.
        entropies: sums of ``sum_y p(y|x) log p(y|x)`` in each split, float64 of shape (splits,).
        split_counts: images in each split, of shape (splits,).
        features: float32 arrays of shape (images, width), in the order in which they were added.
        image_ids: of the images of ``features``.
    """

    width: int
    keeps_features: bool = False
    splits: int = INCEPTION_SCORE_SPLITS
    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    products: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    shares: np.ndarray | None = None
    entropies: np.ndarray | None = None
    split_counts: np.ndarray | None = None
    features: list[np.ndarray] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.total.size:
            self.total, self.products = np.zeros(self.width), np.zeros((self.width, self.width))

    def add(self, features: np.ndarray, logits: np.ndarray | None, image_ids: Iterable[int], set_size: int) -> None:
        """Add images.

        Args:
            features: of shape (images, width).
            logits: of shape (images, classes), where the inception score is wanted.
            image_ids: which images of the set these are, from 0.
            set_size: images of the whole set; with the id it says to which split of the inception score one belongs.
        """
        image_ids = [int(image_id) for image_id in image_ids]
        rows = features.astype(np.float64)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows
        if self.keeps_features:
            self.features.append(features.astype(np.float32))
            self.image_ids += image_ids
        if logits is not None:
            self._add_logits(logits.astype(np.float64), image_ids, set_size)

    def _add_logits(self, logits: np.ndarray, image_ids: list[int], set_size: int) -> None:
        if self.shares is None or self.entropies is None or self.split_counts is None:
            self.shares = np.zeros((self.splits, logits.shape[1]))
            self.entropies, self.split_counts = np.zeros(self.splits), np.zeros(self.splits)
        logits = logits - logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        shares = np.exp(logs)
        for row, image_id in enumerate(image_ids):
            split = image_id * self.splits // set_size
            self.shares[split] += shares[row]
            self.entropies[split] += (shares[row] * logs[row]).sum()
            self.split_counts[split] += 1

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate, as in the published implementations of FID; float64 of shape (width, width)."""
        mean = self.mean
        return (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)

    def rows(self) -> np.ndarray:
        """The features in the order of the images, float32 (count, width). Raises MetricError if none are kept."""
        if not self.features:
            raise MetricError(NO_FEATURES)
        return np.concatenate(self.features)[np.argsort(self.image_ids, kind="stable")]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name, for a file."""
        found = {"count": np.array(self.count), "total": self.total, "products": self.products}
        if self.shares is not None and self.entropies is not None and self.split_counts is not None:
            found |= {"shares": self.shares, "entropies": self.entropies, "split_counts": self.split_counts}
        if self.keeps_features:
            rows = self.rows() if self.features else np.zeros((0, self.width), np.float32)
            found |= {"features": rows, "numbers": np.sort(np.array(self.image_ids, np.int64))}
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Statistics:
        """The inverse of :meth:`arrays`."""
        found = cls(
            width=len(arrays["total"]),
            keeps_features="features" in arrays,
            count=int(arrays["count"]),
            total=arrays["total"],
            products=arrays["products"],
            shares=arrays.get("shares"),
            entropies=arrays.get("entropies"),
            split_counts=arrays.get("split_counts"),
        )
        if "features" in arrays and len(arrays["features"]):
            found.features, found.image_ids = [arrays["features"]], arrays["numbers"].tolist()
        return found


def save_statistics(statistics: Statistics, about: dict[str, Any], path: Path) -> None:
    """Write statistics, and ``about`` (JSON: what they are of), into an npz file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as tmp_path, open(tmp_path, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **statistics.arrays())  # type: ignore[arg-type]


def load_statistics(path: Path) -> tuple[Statistics, dict[str, Any]]:
    """What :func:`save_statistics` wrote. Raises MetricError if it is something else."""
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as file:
            if sum(member.file_size for member in file.infolist()) > MOST_BYTES:
                raise ValueError(f"unpacks to more than {MOST_BYTES >> 30} GiB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        if not isinstance(about, dict):
            raise ValueError("does not say what it is of")
        check_shapes(arrays)
        return Statistics.from_arrays(arrays), about
    except FileNotFoundError as error:
        raise MetricError(f"{path}: no such file") from error
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds; MemoryError for shapes that are too large
        raise MetricError(f"{path}: holds no statistics of this program ({first_line(error)})") from error


def check_shapes(arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError, or another error, if arrays are not those of :meth:`Statistics.arrays`."""
    (width,) = arrays["total"].shape
    expected: dict[str, tuple[int, ...]] = {"count": (), "products": (width, width)}
    if "features" in arrays:
        rows = len(arrays["features"])
        expected |= {"features": (rows, width), "numbers": (rows,)}
    if "shares" in arrays:
        splits, classes = arrays["shares"].shape
        expected |= {"shares": (splits, classes), "entropies": (splits,), "split_counts": (splits,)}
    for name, shape in expected.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "fiu":
            raise ValueError(f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}, not numbers of {shape}")
    if not 0 <= int(arrays["count"]) < 2**63:
        raise ValueError(f"is of {int(arrays['count'])} images")


def load_cached(path: Path) -> tuple[Statistics, dict[str, Any]] | None:
    """Like :func:`load_statistics`; None if the file is not there, or damaged."""
    try:
        return load_statistics(path)
    except MetricError:
        return None

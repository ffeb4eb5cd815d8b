"""Figures of quality from features: FID, KID, precision and recall, inception score. float64 on the host throughout.

What a figure needs is gathered by :class:`Statistics`, batch by batch, and merged over ranks. Nothing here knows where
the features come from.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import atomic_path

# Those that compare features one by one, and so must keep them.
KEEPS_FEATURES = ("kid", "precision_recall")


INCEPTION_SCORE_SPLITS = 10


KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


NEIGHBOURS = 3


NO_FEATURES = "these statistics keep no features: KID, precision and recall need them"


FID_ADVICE = ", or --metrics kid, or --force"


def keeps_features(wanted: Iterable[str]) -> bool:
    """Whether one of these figures needs the features themselves."""
    return not {*KEEPS_FEATURES}.isdisjoint(wanted)


class MetricError(UserError):
    """A figure cannot be given; the message is one line for the user."""


@dataclass
class Statistics:
    """Sums over the features of a set of pictures, from which the figures come.

    ``total`` is the sum of the features (width,), ``products`` of their outer products (width, width), float64; for the
    inception score ``shares`` holds the sums of class probabilities of each split and ``entropies`` those of
    ``sum p log p``. ``features`` keeps the rows themselves, float32, with their numbers, where a figure needs them.
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
    numbers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.total.size:
            self.total, self.products = np.zeros(self.width), np.zeros((self.width, self.width))

    def add(self, features: np.ndarray, logits: np.ndarray | None, numbers: Iterable[int], of: int) -> None:
        """Take in pictures.

        Args:
            features: (pictures, width).
            logits: (pictures, classes), where the inception score is wanted.
            numbers: which pictures of the whole set these are, from 0.
            of: how many the whole set has; says which split of the inception score a picture belongs to.
        """
        numbers = [int(number) for number in numbers]
        rows = features.astype(np.float64)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows
        if self.keeps_features:
            self.features.append(features.astype(np.float32))
            self.numbers += numbers
        if logits is not None:
            self._add_logits(logits.astype(np.float64), numbers, of)

    def _add_logits(self, logits: np.ndarray, numbers: list[int], of: int) -> None:
        if self.shares is None or self.entropies is None or self.split_counts is None:
            self.shares = np.zeros((self.splits, logits.shape[1]))
            self.entropies, self.split_counts = np.zeros(self.splits), np.zeros(self.splits)
        logits = logits - logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        shares = np.exp(logs)
        for row, number in enumerate(numbers):
            split = number * self.splits // of
            self.shares[split] += shares[row]
            self.entropies[split] += (shares[row] * logs[row]).sum()
            self.split_counts[split] += 1

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, as everybody's FID has it."""
        mean = self.mean
        return (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)

    def rows(self) -> np.ndarray:
        """The features that were kept, in the order of the pictures."""
        if not self.features:
            raise MetricError(NO_FEATURES)
        return np.concatenate(self.features)[np.argsort(self.numbers, kind="stable")]

    # --- files: one npz without pickled objects ---

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, as arrays by name."""
        found = {"count": np.array(self.count), "total": self.total, "products": self.products}
        if self.shares is not None and self.entropies is not None and self.split_counts is not None:
            found |= {"shares": self.shares, "entropies": self.entropies, "split_counts": self.split_counts}
        if self.keeps_features:
            rows = self.rows() if self.features else np.zeros((0, self.width), np.float32)
            found |= {"features": rows, "numbers": np.sort(np.array(self.numbers, np.int64))}
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Statistics:
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
            found.features, found.numbers = [arrays["features"]], arrays["numbers"].tolist()
        return found


def save_statistics(statistics: Statistics, about: dict[str, Any], path: Path) -> None:
    """Write statistics and what they are of, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as tmp_path, open(tmp_path, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **statistics.arrays())  # type: ignore[arg-type]


def load_statistics(path: Path) -> tuple[Statistics, dict[str, Any]]:
    """What :func:`save_statistics` wrote. Raises MetricError if it is something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        return Statistics.from_arrays(arrays), about
    except FileNotFoundError as error:
        raise MetricError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise MetricError(f"{path}: holds no statistics of this program ({first_line(error)})") from error


def load_if_whole(path: Path) -> tuple[Statistics, dict[str, Any]] | None:
    """What :func:`save_statistics` wrote for this program alone; None if it is not there, or damaged."""
    try:
        return load_statistics(path)
    except MetricError:
        return None


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Between two Gaussians (Heusel et al. 2017, equation 6).

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``. The trace of the root is taken from the eigenvalues of the
    symmetric ``C_a^(1/2) C_b C_a^(1/2)``, which are those of ``C_a C_b``: stable where the covariances are singular.
    """
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance_b @ root)
    trace_of_root = np.sqrt(np.clip(inner, 0.0, None)).sum()
    difference = mean_a - mean_b
    distance = difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * trace_of_root
    return float(max(distance, 0.0))


def fid(real: Statistics, fake: Statistics, force: bool = False) -> float:
    """Fréchet distance of the features.

    Raises:
        MetricError: with fewer pictures than the features are wide the covariance is singular and the figure says
            more about their number than about the pictures; ``force`` gives it all the same.
    """
    check_count(["fid"], min(real.count, fake.count), real.width, force)
    return frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)


def check_count(wanted: Iterable[str], fewest: int, width: int, force: bool = False, advice: str = FID_ADVICE) -> None:
    """Raises MetricError if so few pictures on one side do not give all figures of features so wide."""
    needed = {"fid": 2, "kid": 2, "precision_recall": NEIGHBOURS + 1}
    for name in wanted:
        if fewest < needed.get(name, 1):
            raise MetricError(f"{name}: needs {needed.get(name, 1)} pictures on either side, has {fewest}")
        if name == "fid" and fewest <= width and not force:
            raise MetricError(
                f"fid: {fewest} pictures are too few for features of width {width}: their covariance is singular and "
                f"the figure too high by far; use more than {width}{advice}"
            )


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy with the kernel ``(x y / width + 1)^3``.

    Bińkowski et al. 2018, equation 3 and section 3: the terms of a row with itself are left out.
    """
    m, n = len(a), len(b)
    same_a, same_b = _kernel(a, a), _kernel(b, b)
    within_a = (same_a.sum() - np.trace(same_a)) / (m * (m - 1))
    within_b = (same_b.sum() - np.trace(same_b)) / (n * (n - 1))
    return float(within_a + within_b - 2.0 * _kernel(a, b).mean())


def kid(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the squared MMD over random subsets: 100 of 1,000 rows, or of all there are.

    Unbiased however few the pictures are; may be a little below 0.
    """
    size = min(KID_SUBSET_SIZE, len(real), len(fake))
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    if size == len(real) == len(fake):  # every subset is the whole
        return squared_mmd(real, fake), 0.0
    generator = np.random.Generator(np.random.Philox(seed))
    found = [
        squared_mmd(
            real[generator.choice(len(real), size, replace=False)],
            fake[generator.choice(len(fake), size, replace=False)],
        )
        for _ in range(KID_SUBSETS)
    ]
    return float(np.mean(found)), float(np.std(found))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * a @ b.T
    return np.clip(squares, 0.0, None)


def _radii(rows: np.ndarray, block: int = 1024) -> np.ndarray:
    """Squared distance of each row to its ``NEIGHBOURS``-th neighbour."""
    found = []
    for start in range(0, len(rows), block):
        distances = _squared_distances(rows[start : start + block], rows)
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = -1.0  # itself comes first
        found.append(np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS])
    return np.concatenate(found)


def _share_inside(rows: np.ndarray, centres: np.ndarray, radii: np.ndarray, block: int = 1024) -> float:
    inside = [
        (_squared_distances(rows[start : start + block], centres) <= radii[None, :]).any(1)
        for start in range(0, len(rows), block)
    ]
    return float(np.concatenate(inside).mean())


def precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The share of fakes among the real ones, and of real ones among the fakes (Kynkäänniemi et al. 2019, equation 2).

    Among: within the distance of some row to its third-nearest neighbour.
    """
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    return _share_inside(fake, real, _radii(real)), _share_inside(real, fake, _radii(fake))


def inception_score(statistics: Statistics) -> tuple[float, float]:
    """Mean and standard deviation over ten splits of ``exp(E KL(p(y|x) || p(y)))`` (Salimans et al. 2016, 4)."""
    shares, entropies, counts = statistics.shares, statistics.entropies, statistics.split_counts
    if shares is None or entropies is None or counts is None:
        raise MetricError("inception_score: these features have no class probabilities")
    scores = []
    for share, entropy, count in zip(shares, entropies, counts, strict=True):
        if count:
            mean = share / count
            known = mean > 0
            scores.append(np.exp(entropy / count - (mean[known] * np.log(mean[known])).sum()))
    return float(np.mean(scores)), float(np.std(scores))


def figures(
    wanted: Sequence[str], real: Statistics | None, fake: Statistics, force: bool = False, seed: int = 0
) -> dict[str, float]:
    """The figures asked for, by name. Raises MetricError, before any is computed where that can be known."""
    found: dict[str, float] = {}
    if real is not None:
        check_count(wanted, min(real.count, fake.count), real.width, force)
    for name in wanted:
        if name == "inception_score":
            found["inception_score"], found["inception_score_std"] = inception_score(fake)
            continue
        assert real is not None
        if name == "fid":
            found["fid"] = fid(real, fake, force)
        elif name == "kid":
            found["kid"], found["kid_std"] = kid(real.rows(), fake.rows(), seed)
        else:
            found["precision"], found["recall"] = precision_recall(real.rows(), fake.rows())
    return found

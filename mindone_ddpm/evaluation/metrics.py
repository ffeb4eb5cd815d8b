"""Metrics from features: FID, KID, precision and recall, inception score. float64 on the host throughout.

Nothing here knows where the features come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mindone_ddpm.evaluation.statistics import MetricError, Statistics

# The metrics that compare features one by one, and so need them kept.
NEED_FEATURES = ("kid", "precision_recall", "copies")
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NEIGHBOURS = 3  # of precision and recall
FID_ADVICE = ", or --metrics kid, or --force"


def need_features(wanted: Iterable[str]) -> bool:
    """Whether one of these metrics needs the features themselves."""
    return not {*NEED_FEATURES}.isdisjoint(wanted)


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
        MetricError: there are fewer images than the features are wide. The covariance is singular then, and the value
            depends more on their number than on the images. With ``force`` it is computed all the same.
    """
    check_count(["fid"], min(real.count, fake.count), real.width, force)
    return frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)


def check_count(wanted: Iterable[str], fewest: int, width: int, force: bool = False, advice: str = FID_ADVICE) -> None:
    """Check the number of images.

    Args:
        fewest: images of the side that has fewer.
        width: of the features.
        advice: what to do instead, for the message.

    Raises:
        MetricError: they are too few for one of the metrics.
    """
    needed = {"fid": 2, "kid": 2, "precision_recall": NEIGHBOURS + 1}
    for name in wanted:
        if fewest < needed.get(name, 1):
            raise MetricError(f"{name}: needs {needed.get(name, 1)} images on either side, has {fewest}")
        if name == "fid" and fewest <= width and not force:
            raise MetricError(
                f"fid: {fewest} images are too few for features of width {width}: their covariance is singular and "
                f"the value far too high; use more than {width}{advice}"
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
    """Mean and standard deviation of the squared MMD over 100 random subsets of 1,000 rows, or of all rows if fewer.

    Unbiased for any number of images; may be a little below 0.
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


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row of ``a`` to each of ``b``, of shape (len(a), len(b))."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * a @ b.T
    return np.clip(squares, 0.0, None)


def _radii(rows: np.ndarray, block: int = 1024) -> np.ndarray:
    """Squared distance of each row to its ``NEIGHBOURS``-th neighbour."""
    found = []
    for start in range(0, len(rows), block):
        distances = squared_distances(rows[start : start + block], rows)
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = -1.0  # itself comes first
        found.append(np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS])
    return np.concatenate(found)


def _share_inside(rows: np.ndarray, centres: np.ndarray, radii: np.ndarray, block: int = 1024) -> float:
    inside = [
        (squared_distances(rows[start : start + block], centres) <= radii[None, :]).any(1)
        for start in range(0, len(rows), block)
    ]
    return float(np.concatenate(inside).mean())


def precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """Precision and recall (Kynkäänniemi et al. 2019, equation 2).

    The share of fake rows inside the manifold of the real ones, and of real rows inside that of the fake ones. A
    manifold is the union of balls around its rows that reach to the third-nearest neighbour.
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


def compute_metrics(
    wanted: Sequence[str], real: Statistics | None, fake: Statistics, force: bool = False, seed: int = 0
) -> dict[str, float]:
    """The metrics by name.

    Args:
        wanted: of ``fid``, ``kid``, ``precision_recall`` and ``inception_score``.
        real: may be None for the inception score alone.
        force: compute a FID from too few images too.
        seed: of KID's subsets.

    Raises:
        MetricError: one cannot be computed; before any is, where that can be known.
    """
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


# Metrics of other features than Inception's have other names, so that nobody takes them for the published ones.
OTHER_NAMES = {"fid": "frechet_distance", "kid": "kernel_distance", "kid_std": "kernel_distance_std"}


def metric_name(name: str, prefix: str) -> str:
    """The name of a metric of features with a prefix; see :class:`mindone_ddpm.evaluation.features.FeatureNetwork`."""
    return prefix + OTHER_NAMES.get(name, name) if prefix else name

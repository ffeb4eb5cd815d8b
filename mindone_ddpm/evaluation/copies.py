"""Whether a model copies its training images: the distance of each generated image to the nearest of them.

The same distance of images that the model has not seen says what is usual. A generated image is suspicious if it is
nearer to a training image than all but ``USUAL_SHARE`` of those are. (Nearest neighbours in feature space, as in
Carlini et al. 2023 and Somepalli et al. 2023; their thresholds are fixed ones, of one network.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone_ddpm.common.files import atomic_path, write_text
from mindone_ddpm.config.values import COPIES_FILE, COPIES_GRID
from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.evaluation.image_sources import ImageSource
from mindone_ddpm.evaluation.metrics import squared_distances

USUAL_SHARE = 0.05
NUM_PAIRS = 8  # the closest, shown side by side
HELD_OUT, AMONG_THEMSELVES = "held-out images", "training images among themselves"


class CopyCheck(NamedTuple):
    """The result.

    Attributes:
        share: of the generated images that are suspicious; :data:`USUAL_SHARE` where there are no copies.
        distances, nearest: of each generated image, and the index of its nearest training image.
        threshold: the distance below which an image is suspicious.
        usual: the median of that distance for images that the model has not seen.
        reference: what these images are.
    """

    share: float
    distances: np.ndarray
    nearest: np.ndarray
    threshold: float
    usual: float
    reference: str


def nearest_rows(rows: np.ndarray, among: np.ndarray, skip_same_place: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The Euclidean distance of each row to the nearest of others, and which that is.

    Args:
        rows, among: float of shape (images, width).
        skip_same_place: the two are the same set, and no row is its own neighbour.
    """
    among = among.astype(np.float64)
    distances, nearest = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for first in range(0, len(rows), 256):
        part = rows[first : first + 256].astype(np.float64)
        between = squared_distances(part, among)
        if skip_same_place:
            places = np.arange(len(part))
            between[places, first + places] = np.inf
        nearest[first : first + 256] = between.argmin(1)
        distances[first : first + 256] = np.sqrt(between.min(1))
    return distances, nearest


def check_copies(generated: np.ndarray, training: np.ndarray, held_out: np.ndarray | None) -> CopyCheck:
    """Compare features, float of shape (images, width). Without ``held_out``, each training image's distance to the
    nearest other one says what is usual."""
    distances, nearest = nearest_rows(generated, training)
    if held_out is not None:
        usual, reference = nearest_rows(held_out, training)[0], HELD_OUT
    else:
        usual, reference = nearest_rows(training, training, skip_same_place=True)[0], AMONG_THEMSELVES
    threshold = float(np.quantile(usual, USUAL_SHARE))
    share = float((distances < threshold).mean())
    return CopyCheck(share, distances, nearest, threshold, float(np.median(usual)), reference)


def describe(check: CopyCheck) -> str:
    """One line for a person."""
    return (
        f"copies: {check.share:.1%} of the generated images are nearer to a training image than 95% of the "
        f"{check.reference} are (5.0% would be usual)"
    )


def write_copies(
    check: CopyCheck, generated: ImageSource, training: ImageSource, folder: Path, batch_size: int
) -> None:
    """Write ``copies.json``, and ``copies.png`` with the closest pairs: a generated image, then its training image.

    Args:
        generated, training: give the images by number.
    """
    order = np.argsort(check.distances, kind="stable")[:NUM_PAIRS]
    pairs = [
        {"generated": int(i), "training": int(check.nearest[i]), "distance": float(check.distances[i])} for i in order
    ]
    about = {
        "suspicious_share": check.share,
        "usual_share": USUAL_SHARE,
        "threshold": check.threshold,
        "median_distance": float(np.median(check.distances)),
        "usual_median_distance": check.usual,
        "reference": check.reference,
        "closest": pairs,
    }
    sides = []
    for source, key in ((generated, "generated"), (training, "training")):
        numbers = [int(pair[key]) for pair in pairs]
        batches = [source(numbers[first : first + batch_size]) for first in range(0, len(numbers), batch_size)]
        sides.append(np.concatenate(batches))
    paired = np.stack(sides, axis=1).reshape(-1, *sides[0].shape[1:])
    with atomic_path(folder / COPIES_GRID) as tmp_path:
        make_grid(paired, columns=4).save(tmp_path, format="png")
    write_text(folder / COPIES_FILE, json.dumps(about, indent=2) + "\n")

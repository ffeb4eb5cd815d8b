"""Which noise a sample is paired with: within a batch, so that the pairs lie near each other.

Paths from samples to noise that was drawn for each of them cross, and where they cross the network can only learn their
mean. Paths of an optimal assignment do not, and are learnt in fewer steps (Pooladian et al. 2023, section 3; Tong et
al. 2023, "OT-CFM"). Each sample's noise is still normal, and that of all samples independent, because the noise of a
batch is only put into another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nearest_order(samples: np.ndarray, noise: np.ndarray, conditions: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The order of the noise with which the sum of squared distances between samples and noise is the smallest.

    Noise is only exchanged between samples with the same conditions: what is generated for a condition begins at normal
    noise, so normal noise is what each condition must be trained on.

    Args:
        samples, noise: float32 of shape (batch, ...).
        conditions: arrays of shape (batch,) or (batch, n): what the network is told about each sample.

    Returns:
        int64 of shape (batch,): sample ``i`` belongs to ``noise[order[i]]``.
    """
    from scipy.optimize import linear_sum_assignment

    order = np.arange(len(samples))
    for rows in _groups(len(samples), conditions):
        # |x - n|^2 = |x|^2 + |n|^2 - 2 x n, and the sums of the first two are the same in every order.
        products = samples[rows].reshape(len(rows), -1) @ noise[rows].reshape(len(rows), -1).T
        order[rows] = rows[linear_sum_assignment(products, maximize=True)[1]]
    return order


def _groups(count: int, conditions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The rows that have the same conditions, for each of them; groups of one are left out."""
    if not conditions:
        return [np.arange(count)]
    told = np.concatenate([np.asarray(one, np.float64).reshape(count, -1) for one in conditions], axis=1)
    group = np.unique(told, axis=0, return_inverse=True)[1].reshape(-1)
    found = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    return [rows for rows in found if len(rows) > 1]

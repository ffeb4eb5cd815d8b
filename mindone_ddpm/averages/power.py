"""Averages whose weight grows as a power of time. NumPy alone.

After step ``t`` the average of the exponent ``gamma`` weights the parameters after step ``s`` by
``p(s) = (gamma + 1) s^gamma / t^(gamma + 1)``. Its width is the deviation of ``s`` under ``p``, as a share of ``t``
(Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", equations 2 to 5, 123, 126).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of the two averages that a run keeps; the others are made from them.
KEPT_WIDTHS = (0.05, 0.10)


class Average(NamedTuple):
    """The average of a width after a step."""

    step: int
    width: float


def exponent(width: float) -> float:
    """gamma of a width; the inverse of ``width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))``."""
    inverse = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def power_decays(total_steps: int, width: float) -> np.ndarray:
    """The decay in the update after each optimizer step ``t`` from 1 on, ``(1 - 1/t)^(gamma + 1)``, float64."""
    steps = np.arange(1, total_steps + 1, dtype=np.float64)
    return (1.0 - 1.0 / steps) ** (exponent(width) + 1.0)


def overlap(a: Average, b: Average) -> float:
    """The integral of the product of two averages' weights over time."""
    one, other = exponent(a.width), exponent(b.width)
    # (one + 1) (other + 1) shorter^(one + other + 1) / (a.step^(one + 1) b.step^(other + 1) (one + other + 1))
    shorter = min(a.step, b.step)
    logarithm = (one + other + 1.0) * np.log(shorter) - (one + 1.0) * np.log(a.step) - (other + 1.0) * np.log(b.step)
    return (one + 1.0) * (other + 1.0) / (one + other + 1.0) * float(np.exp(logarithm))


def shares(kept: Sequence[Average], wanted: Average) -> np.ndarray:
    """How much of each kept average makes the wanted one, by least squares over time. float64 of shape (kept,)."""
    products = np.array([[overlap(a, b) for b in kept] for a in kept])
    right = np.array([overlap(a, wanted) for a in kept])
    return np.linalg.solve(products, right)

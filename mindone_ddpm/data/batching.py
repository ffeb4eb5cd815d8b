"""Batches of one size: a short batch is padded, so that nothing is compiled again, and its padding is trimmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def pad_batch(items: Sequence[Item], batch_size: int) -> list[Item]:
    """At least one item and at most ``batch_size``, padded to that number with the last one."""
    return [*items, *[items[-1]] * (batch_size - len(items))]


def in_batches(items: Sequence[Item], batch_size: int) -> Iterator[tuple[list[Item], int]]:
    """``items`` in batches of ``batch_size``; with each, how many of its items are not padding.

    The results of a batch are trimmed by ``results[:count]``.
    """
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        yield pad_batch(batch, batch_size), len(batch)


def map_batches(function: Callable[[list[Item]], np.ndarray], items: Sequence[Item], batch_size: int) -> np.ndarray:
    """``function`` of all items, of shape (len(items), ...), called with batches of one size.

    Args:
        function: takes ``batch_size`` items and returns an array with a row for each.
        items: at least one.
    """
    return np.concatenate([function(batch)[:count] for batch, count in in_batches(items, batch_size)])

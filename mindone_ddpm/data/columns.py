"""The columns of a batch, by name: packed on the host in one order, unpacked in the compiled step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import nn

WEIGHTS = "weights"  # the last column: 1 for a sample, 0 for padding


def pack(batch: Mapping[str, np.ndarray], columns: Sequence[str], weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """A batch's arrays in the order of ``columns``, and its weights, float32 of shape (batch,).

    Raises:
        ValueError: a column is missing, or there is one that was not announced.
    """
    if batch.keys() != set(columns):
        odd = sorted(batch.keys() ^ set(columns))
        raise ValueError(f"a batch has the columns {sorted(batch)}, but {sorted(columns)} were announced: see {odd}")
    return (*(batch[name] for name in columns), weights)


class CalledByName(nn.Cell):
    """Calls a cell whose parameters are columns of a batch, by name: ``cell(a=..., c=...)`` for positional ``(c, a)``.

    Args:
        cell: its ``construct`` has the columns as parameters; those without a column must have the default None.
        columns: what the positional arguments are.

    Raises:
        TypeError: a column has no parameter, or a parameter has neither a column nor the default None.
    """

    def __init__(self, cell: nn.Cell, columns: Sequence[str]):
        super().__init__(auto_prefix=False)
        parameters = inspect.signature(type(cell).construct).parameters
        names = list(parameters)[1:]  # without self
        unknown = [name for name in columns if name not in names]
        if unknown:
            raise TypeError(f"{type(cell).__name__}.construct has no parameter for the column {unknown[0]}")
        required = [name for name in names if name not in columns and parameters[name].default is not None]
        if required:
            raise TypeError(
                f"{type(cell).__name__}.construct needs the column {required[0]}, which batches do not have"
            )
        self.cell = cell
        # The place of each parameter among the columns; None where there is no such column.
        self.places = tuple(columns.index(name) if name in columns else None for name in names)

    def construct(self, *batch):
        arguments: tuple = ()
        for place in self.places:
            arguments = (*arguments, None if place is None else batch[place])
        return self.cell(*arguments)

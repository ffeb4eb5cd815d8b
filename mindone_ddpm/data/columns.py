"""Batches by name: the columns of a batch, their order between host and device, and calling a cell with them.

A job names the columns of its batches and makes each batch as a dictionary. The loader and the compiled step pass
tuples; the order of the names is the order of the tuple, and this module alone converts between the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mindspore import nn

WEIGHTS = "weights"  # of the samples in the loss; the loader appends this column to those of a job

Value = TypeVar("Value")


def pack(batch: Mapping[str, Value], columns: Sequence[str]) -> tuple[Value, ...]:
    """The values of a batch in the order of ``columns``.

    Raises:
        ValueError: the batch lacks a column, or has one that is not in ``columns``; names it.
    """
    missing = [name for name in columns if name not in batch]
    unknown = [name for name in batch if name not in columns]
    problems = [f"no column {', '.join(missing)}"] if missing else []
    problems += [f"an unknown column {', '.join(unknown)}"] if unknown else []
    if problems:
        raise ValueError(f"the batch has {' and '.join(problems)}; its columns must be {', '.join(columns)}")
    return tuple(batch[name] for name in columns)


class CalledByName(nn.Cell):
    """Calls a cell with the columns of a batch, each as the parameter of the same name.

    A parameter of the cell's ``construct`` with the default None is optional: it is None where the batch has no such
    column. Names are matched once, when this cell is made; what is compiled is a plain call.

    Args:
        cell: its ``construct`` has one named parameter for each column, in any order.
        columns: the names of the values with which this cell is called, in order.

    Raises:
        TypeError: a column is not a parameter of the cell, or a parameter without a default has no column.
    """

    def __init__(self, cell: nn.Cell, columns: Sequence[str]):
        super().__init__(auto_prefix=False)
        self.cell = cell
        self.places = _places_of_parameters(cell, columns)

    def construct(self, *batch):
        """What the cell returns. ``batch``: the values of the columns, in order."""
        arguments: tuple[Any, ...] = ()
        for place in self.places:
            arguments += (None if place < 0 else batch[place],)
        return self.cell(*arguments)


def _places_of_parameters(cell: Any, columns: Sequence[str]) -> tuple[int, ...]:
    """For each parameter of a cell, the place of its column; -1 for None."""
    name_of_cell = type(cell).__name__
    parameters = inspect.signature(cell.construct).parameters
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in parameters.values():
        if parameter.kind in unnamed:
            raise TypeError(f"{name_of_cell}.construct: {parameter} cannot be given a column; name each parameter")
    unknown = [name for name in columns if name not in parameters]
    if unknown:
        raise TypeError(
            f"{name_of_cell}.construct has no parameter for the column {', '.join(unknown)}; its parameters are "
            f"{', '.join(parameters)}"
        )
    place_of = {name: place for place, name in enumerate(columns)}
    places = []
    for name, parameter in parameters.items():
        if name not in place_of and parameter.default is not None:
            raise TypeError(
                f"{name_of_cell}.construct needs the column {name}; the batch has {', '.join(columns)}. "
                "An optional parameter has the default None"
            )
        places.append(place_of.get(name, -1))
    return tuple(places)

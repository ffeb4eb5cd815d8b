"""What CANN's documentation allows for each kernel of the stand-in: types, ranks and relations of its tensors.

Read from the aclnn reference as it stood in August 2026 for Atlas A2 (Ascend910B) and the Atlas training series
(Ascend910A); each entry names its page. Types that the stand-in does not have (complex, unsigned beyond uint8, 8 bits)
are left out. build.py compiles this table into the stand-in; a call outside it fails. An entry without a source is
open: nothing was found, and its limits are no more than those of the operator in MindSpore.

Rules that need more than the tensors, such as the head size of attention, are checked beside the kernel, in C++.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

FLOATS = "float32 float16 bfloat16"
REALS = FLOATS + " float64"
INDICES = "int32 int64"
INTEGERS = "int8 uint8 int16 int32 int64"
NO_BOOL = REALS + " int8 uint8 int16 int32 int64"
ALL = NO_BOOL + " bool"


class Limit(NamedTuple):
    """Of one kernel.

    Attributes:
        tensors: the types that each takes on Atlas A2, by the documentation's name; inputs, then outputs, in the order
            of the kernel's C++.
        source: repository and folder at gitcode.com/cann whose documentation says so; empty where none was found.
        max_rank: the most dimensions of a tensor.
        without_910: the types that the Atlas training series lacks; with ``ALL`` it lacks the kernel.
        ranks: fewest and most dimensions of a tensor, where they are not 0 and max_rank.
        rules: a rule's name and the tensors it is about. ``same_type``, ``same_shape``, ``not_empty``,
            ``not_both_bool``; ``broadcast a b out``: out has their common shape; ``castable a b out``: their common
            type is not floating point where out's is an integer, and not an integer where out's is bool;
            ``no_bfloat16_mix``: float16 with float32 is promoted, bfloat16 stands alone; ``float32_or_same a b``.
    """

    tensors: dict[str, str]
    source: str = ""
    max_rank: int = 8
    without_910: str = "bfloat16"
    ranks: Mapping[str, tuple[int, int]] = MappingProxyType({})
    rules: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        """The address of the documentation, or ""."""
        repository, _, folder = self.source.partition(":")
        return f"https://gitcode.com/cann/{repository}/tree/master/{folder}" if folder else ""


def alike(types: str, names: str) -> dict[str, str]:
    """Tensors that all take the same types."""
    return {name: types for name in names.split()}

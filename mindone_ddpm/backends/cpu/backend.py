"""A CPU with the operators in C++ of this folder, and sockets over which ranks wait for each other.

The folder can be deleted: a CPU then runs on :mod:`mindone_ddpm.backends.substitutes` alone, slower, and ranks wait for
each other only as long as MindSpore's collectives do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindone_ddpm.backends import substitutes
from mindone_ddpm.backends.cpu import fused, native, parsing
from mindone_ddpm.backends.cpu.compiler import is_wanted
from mindone_ddpm.backends.cpu.operators import OPERATORS
from mindone_ddpm.backends.cpu.rendezvous import SocketRendezvous
from mindone_ddpm.common.machine import has_bf16


def install() -> str | None:
    """Put the substitutes in place, and over them the operators in C++. Returns why there are none of the latter, or
    None where there are, or are not wanted."""
    substitutes.install()
    parsing.install()
    trouble = native.load()
    if trouble is None:
        OPERATORS.install()
        return None
    return trouble if is_wanted() else None


def graph_facts() -> dict[str, Any]:
    """A compiled graph names the file that the operators come from."""
    return {**substitutes.graph_facts(), "operators": OPERATORS.names(), "library": str(native.library())}


def precisions() -> tuple[str, ...]:
    """bf16 where the CPU has instructions for it, and the operators that use them are there."""
    return ("no", "fp16", "bf16") if native.library() is not None and has_bf16() else ("no", "fp16")


BACKEND = replace(
    substitutes.CPU,
    precisions=precisions,
    gradients=fused.gradients,
    adamw=fused.adamw,
    ema=fused.ema,
    install=install,
    graph_facts=graph_facts,
    rendezvous=SocketRendezvous,
)

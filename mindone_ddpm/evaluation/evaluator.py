"""What is measured during training, every so many steps and at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Evaluator(Protocol):
    """Measures the networks as they are, with the averaged weights where there are any.

    Attributes:
        name: under which a run remembers when it last ran.
        every: optimizer steps between runs; 0: at the end only.
        best_metric: of which the best product is kept (``--save_best``); None: of none.
    """

    name: str
    every: int
    best_metric: str | None

    def prepare(self) -> None:
        """Called once before training, on every rank: what must be known of the real images.

        Raises:
            ConfigError, MetricError: it cannot be measured as asked.
        """

    def describe_cost(self, total_steps: int, images_per_step: int) -> str:
        """What it costs, for the plan; empty where that is not worth a line."""

    def run(self, on_batch: Callable[[], object]) -> dict[str, float]:
        """Metrics by name, the same on every rank. ``on_batch`` is called before each batch, equally often on each."""

    def shown(self, found: dict[str, float]) -> list[str]:
        """The names of the metrics that are printed."""

    def key_of(self, metric: str) -> str:
        """What a metric of ``--save_best`` is called among those of :meth:`run`."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What must be equal for two values of a metric to compare; JSON."""

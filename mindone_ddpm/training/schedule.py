"""How long a run is, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mindone_ddpm.data.plan import Plan


@dataclass
class Schedule:
    """How many batches, windows and steps a run has. A window of micro-batches never crosses an epoch's end."""

    plan: Plan
    accumulation_steps: int
    num_epochs: int
    max_train_steps: int | None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.plan.batches_per_epoch // self.accumulation_steps)

    @property
    def total_steps(self) -> int:
        return self.max_train_steps or self.num_epochs * self.steps_per_epoch

    def window_size(self, batch_number: int) -> int:
        """Micro-batches in the window that begins at ``batch_number``."""
        left_in_epoch = self.plan.batches_per_epoch - batch_number % self.plan.batches_per_epoch
        return min(self.accumulation_steps, left_in_epoch)

    def epoch(self, batch_number: int) -> tuple[int, bool]:
        """Which epoch the batches before ``batch_number`` have reached, from 1, and whether they end it."""
        done, rest = divmod(batch_number, self.plan.batches_per_epoch)
        return done + bool(rest), rest == 0

    def is_over(self, step: int, batch_number: int) -> bool:
        if self.max_train_steps is not None:
            return step >= self.max_train_steps
        return batch_number >= self.num_epochs * self.plan.batches_per_epoch


@dataclass
class Progress:
    """Where a run stands: all else is a function of it. ``step`` is the host's guess until the device is asked."""

    step: int = 0
    batch_number: int = 0
    skips: int = 0
    resumed: bool = False
    best: dict[str, Any] | None = None  # figure, value, step, and how it was measured: of --save_best
    evaluated: dict[str, int] = field(default_factory=dict)  # the step at which each evaluator last ran

"""Counts the launches of a train step on the stand-in, by kernel.

    python tests/standin/launches.py train --preset tiny --dataset_name digits --channels 1 --image_size 8 ...

Nothing is computed, so that a model of real size takes little more than its compilation.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from standin import Event, events, run_on_standin

PROGRAM = Path(__file__).with_name("traced_steps.py")
BACKWARD = re.compile(r"Backward|Grad|aclnnMm$|aclnnBatchMatMul|aclnnMatmul")


def steps_of(trace: Path) -> dict[str, list[Event]]:
    """The events of each marked step, in order."""
    steps: dict[str, list[Event]] = {}
    step: list[Event] = []
    for event in events(trace):
        if event.kind == "mark":
            step = []
            if event.name != "end":
                steps[event.name] = step
        else:
            step.append(event)
    return steps


def launches(step: list[Event]) -> list[Event]:
    return [event for event in step if event.kind in ("launch", "aclop", "fused")]


def update_of(step: list[Event]) -> list[Event]:
    """The launches after the last one of the backward pass."""
    kernels = launches(step)
    last = max(number for number, event in enumerate(kernels) if BACKWARD.search(event.name))
    return kernels[last + 1 :]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        flags = ["--device", "Ascend", "--output_dir", f"{folder}/run", *sys.argv[2:]]
        result = run_on_standin(PROGRAM, sys.argv[1], *flags, trace=trace, timeout_s=3600, STANDIN_COMPUTE="0")
        if result.returncode:
            print(result.stderr[-2000:], file=sys.stderr)
            return 1
        step = steps_of(trace)["train-1"]
    kernels, update = launches(step), update_of(step)
    print(f"launches: {len(kernels)}; forward and backward pass: {len(kernels) - len(update)}; update: {len(update)}")
    for name, number in Counter(event.name for event in kernels).most_common():
        print(f"{number:6} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Snapshots of a run's two averages: written during training, read afterwards. Without MindSpore.

``snapshots/step-<number>.safetensors`` holds, in half precision, for each width and network of the run the averaged
parameters by their names in the network's file: ``0.050/unet/conv_in.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mindone_ddpm.averages.power import KEPT_WIDTHS, Average, shares
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import check_regular, save_safetensors
from mindone_ddpm.output.product import SNAPSHOTS as FOLDER

FILE_NAME = re.compile(r"step-(\d+)\.safetensors")
BYTES_PER_WEIGHT = 2 * len(KEPT_WIDTHS)


def snapshot_path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}.safetensors"


def write_snapshot(run: Path, step: int, averages: Mapping[float, Mapping[str, Mapping[str, np.ndarray]]]) -> None:
    """Write the snapshot of a step, atomically.

    Args:
        averages: by width, network and parameter, float32.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {
        f"{width:.3f}/{network}/{name}": array.astype(np.float16)
        for width, networks in averages.items()
        for network, parameters in networks.items()
        for name, array in parameters.items()
    }
    path = snapshot_path(run, step)
    path.parent.mkdir(exist_ok=True)
    save_safetensors(arrays, path, metadata={"format": "np"})


def steps_of(run: Path) -> list[int]:
    """The steps of the snapshots of a run, in order."""
    found = [FILE_NAME.fullmatch(path.name) for path in (run / FOLDER).glob("*.safetensors")]
    return sorted(int(match.group(1)) for match in found if match)


def remove_after(run: Path, step: int) -> None:
    """Remove the snapshots of later steps: a run that resumes makes them again."""
    for later in steps_of(run):
        if later > step:
            snapshot_path(run, later).unlink(missing_ok=True)


class Snapshots:
    """The snapshots of a run up to a step.

    Args:
        step: of the last one to use; None: the last of all.

    Raises:
        ConfigError: there are none, or none of that step.
    """

    def __init__(self, run: Path, step: int | None = None):
        steps = steps_of(run)
        if not steps:
            raise ConfigError(f"{run}: has no snapshots; train with --snapshot_steps")
        if step is not None and step not in steps:
            raise ConfigError(f"--step {step}: {run} has snapshots of the steps {', '.join(map(str, steps))}")
        self.run = run
        self.step = steps[-1] if step is None else step
        self.kept = [Average(number, width) for number in steps if number <= self.step for width in KEPT_WIDTHS]

    def networks(self) -> list[str]:
        """The names of the networks that the last snapshot holds."""
        with self._opened(self.step) as file:
            return sorted({key.split("/")[1] for key in file.keys()})  # noqa: SIM118  no dictionary

    def average(self, width: float, network: str) -> dict[str, np.ndarray]:
        """The average of a width after :attr:`step`, by the parameters' names, float32.

        Raises:
            ConfigError: a snapshot is damaged, or has not the parameters of the others.
        """
        total: dict[str, np.ndarray] = {}
        for kept, share in zip(self.kept, shares(self.kept, Average(self.step, width)), strict=True):
            parameters = dict(self._parameters(kept, network))
            if total and {n: a.shape for n, a in parameters.items()} != {n: a.shape for n, a in total.items()}:
                raise ConfigError(f"{snapshot_path(self.run, kept.step)}: has not the parameters of the others")
            for name, array in parameters.items():
                total[name] = total.get(name, 0.0) + np.float64(share) * array.astype(np.float64)
        return {name: array.astype(np.float32) for name, array in total.items()}

    def _parameters(self, kept: Average, network: str) -> Iterator[tuple[str, np.ndarray]]:
        prefix = f"{kept.width:.3f}/{network}/"
        path = snapshot_path(self.run, kept.step)
        with self._opened(kept.step) as file:
            names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            if not names:
                raise ConfigError(f"{path}: has no average of the width {kept.width} of {network}")
            for name in names:
                yield name.removeprefix(prefix), file.get_tensor(name)

    def _opened(self, step: int) -> Any:
        path = snapshot_path(self.run, step)
        try:
            check_regular(path)
            return safe_open(path, framework="numpy")
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"{path}: the snapshot cannot be read ({error})") from error

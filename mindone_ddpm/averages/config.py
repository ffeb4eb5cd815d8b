"""Settings of the average command. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import Settings, setting
from mindone_ddpm.config.groups import DEVICES, FEATURES, HIGHER_IS_BETTER, MODES

# What can be made from the two that are kept. An average of all steps alike has 0.2887.
SMALLEST_WIDTH, LARGEST_WIDTH = 0.04, 0.25
DEFAULT_WIDTHS = "0.04,0.06,0.09,0.13,0.18"


@dataclass
class AverageConfig(Settings):
    """A pipeline with averaged weights of any width, from a run's snapshots."""

    heading: ClassVar[str] = "average"

    output_dir: str = setting("", "folder for the pipeline; by default average-WIDTH in the run's folder")
    width: float | None = setting(
        None,
        "of the average, as a share of the training's length: 0.05 looks back over some 10 % of it",
        low=SMALLEST_WIDTH,
        high=LARGEST_WIDTH,
    )
    step: int | None = setting(None, "the last snapshot that is used; by default the run's last", low=1)
    best: str | None = setting(
        None,
        "instead of --width: try several, measure this with the run's data, and keep the best",
        choices=list(HIGHER_IS_BETTER),
    )
    widths: str = setting(DEFAULT_WIDTHS, "with --best: the widths to try, with commas between")
    num_samples: int = setting(2000, "with --best: generated images for each width", low=2)
    features: str = setting("inception", "with --best: network whose features are compared", choices=FEATURES)
    inception_weights: str | None = setting(None, "with --best: as in evaluate")
    batch_size: int = setting(64, "with --best: images per batch", low=1)
    seed: int = setting(0, "with --best: of the images", low=0, high=2**32 - 1)
    device: str = setting("auto", "with --best: auto takes the first that is there", choices=DEVICES)
    mode: str = setting("graph", "with --best: graph compiles the networks", choices=MODES)

    def own_problems(self) -> list[str]:
        if (self.width is None) == (self.best is None):
            return ["--width or --best: give one of them"]
        if self.best is None:
            return []
        try:
            found = self.widths_to_try()
        except ValueError:
            found = []
        if not found or not all(SMALLEST_WIDTH <= width <= LARGEST_WIDTH for width in found):
            return [
                f"--widths {self.widths}: must be numbers from {SMALLEST_WIDTH} to {LARGEST_WIDTH} with commas between"
            ]
        return []

    def widths_to_try(self) -> list[float]:
        return [float(width) for width in self.widths.split(",")]

"""Seeded sampling: from a UNet and a scheduler to pictures, and pictures to files and grids.

Picture ``i`` starts from noise, and is stepped with noise, drawn from a generator keyed by (seed, i): it does not
depend on how many are made, in batches of what size, or after what training.
"""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from PIL import Image

from mindone_ddpm.data.grids import make_grid, to_image
from mindone_ddpm.data.scaling import from_model_range, to_pixels

TRAJECTORY_PICTURES, TRAJECTORY_FRAMES = 8, 10


TRAJECTORY_STRIP = "trajectory.png"


def to_values(images: ms.Tensor) -> np.ndarray:
    """From [-1, 1], (batch, channels, height, width), to [0, 1], float32 (batch, height, width, channels)."""
    return from_model_range(images.asnumpy()).transpose(0, 2, 3, 1)


def save_image(values: np.ndarray, path: Path, bit_depth: int = 8) -> None:
    """Write values in [0, 1], shape (height, width, channels), as a PNG of 8 or 16 bits a channel."""
    if bit_depth == 8:
        to_image(to_pixels(values)).save(path)
        return
    import cv2  # Pillow writes no 16-bit colours

    deep = (values.astype(np.float64) * 65535.0).round().astype(np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[deep.shape[2]]  # to OpenCV's BGR
    written, content = cv2.imencode(".png", deep[..., order])
    assert written
    path.write_bytes(content.tobytes())


class Trajectory:
    """Keeps how the first batch's first pictures come about: some frames of them, evenly spread."""

    def __init__(self, num_steps: int):
        self.wanted = set(np.linspace(0, num_steps - 1, min(TRAJECTORY_FRAMES, num_steps)).round().astype(int).tolist())
        self.step = 0
        self.frames: list[np.ndarray] = []

    def add(self, images: ms.Tensor) -> None:
        if self.step in self.wanted:
            self.frames.append(to_pixels(to_values(images))[:TRAJECTORY_PICTURES])
        self.step += 1

    def strip(self) -> Image.Image:
        """A row for each picture."""
        by_picture = np.stack(self.frames, axis=1)  # (pictures, frames, height, width, channels)
        return make_grid(by_picture.reshape(-1, *by_picture.shape[2:]), columns=len(self.frames))

    def save(self, folder: Path, kind: str) -> Path:
        """As a strip or as a GIF."""
        if kind == "strip":
            path = folder / TRAJECTORY_STRIP
            self.strip().save(path)
            return path
        path = folder / "trajectory.gif"
        first, *others = [make_grid(frame).convert("RGB") for frame in self.frames]
        durations_ms = [200] * len(others) + [2000]
        first.save(path, save_all=True, append_images=others, duration=durations_ms, loop=0)
        return path


def write_images(values: np.ndarray, output_dir: Path, bit_depth: int, columns: int | None = None) -> Path:
    """Numbered PNGs, in place of those that were there, and a grid of them; returns the grid's path."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for old in output_dir.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        old.unlink()
    for number, picture in enumerate(values):
        save_image(picture, output_dir / f"{number:05d}.png", bit_depth)
    grid = output_dir / "grid.png"
    make_grid(to_pixels(values), columns).save(grid)
    return grid

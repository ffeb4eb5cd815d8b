"""Generated images: from tensors to pixels, to PNG files, and how they were denoised."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from PIL import Image

from mindone_ddpm.config.values import GRID_FILE, TRAJECTORY_GIF, TRAJECTORY_STRIP
from mindone_ddpm.data.grids import make_grid, to_image
from mindone_ddpm.data.scaling import from_model_range, to_pixels

TRAJECTORY_IMAGES, TRAJECTORY_FRAMES = 8, 10
FRAME_MS, LAST_FRAME_MS = 200, 2000


def to_values(images: ms.Tensor) -> np.ndarray:
    """From [-1, 1], (batch, channels, height, width), to [0, 1], float32 (batch, height, width, channels)."""
    return from_model_range(images.asnumpy()).transpose(0, 2, 3, 1)


def save_image(values: np.ndarray, path: Path, bit_depth: int = 8) -> None:
    """Write values in [0, 1], shape (height, width, channels), as a PNG with 8 or 16 bits per channel."""
    if bit_depth == 8:
        to_image(to_pixels(values)).save(path)
        return
    import cv2  # Pillow writes no 16-bit colours

    deep = (values.astype(np.float64) * 65535.0).round().astype(np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[deep.shape[2]]  # to OpenCV's BGR
    written, content = cv2.imencode(".png", deep[..., order])
    assert written
    path.write_bytes(content.tobytes())


def write_images(values: np.ndarray, output_dir: Path, bit_depth: int, columns: int | None = None) -> Path:
    """Write numbered PNGs and a grid of them; numbered PNGs of an earlier call are removed.

    Args:
        values: in [0, 1], float32 of shape (number, height, width, channels).
        columns: of the grid; by default as many as rows.

    Returns:
        The grid's path.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    for old in output_dir.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        old.unlink()
    for sample_id, image in enumerate(values):
        save_image(image, output_dir / f"{sample_id:05d}.png", bit_depth)
    grid = output_dir / GRID_FILE
    make_grid(to_pixels(values), columns).save(grid)
    return grid


class Trajectory:
    """The denoising of the first images of the first batch: at most ten frames, evenly spread over the steps.

    Args:
        num_steps: how often :meth:`add` is called for a batch.
    """

    def __init__(self, num_steps: int):
        self.wanted = set(np.linspace(0, num_steps - 1, min(TRAJECTORY_FRAMES, num_steps)).round().astype(int).tolist())
        self.step = 0
        self.frames: list[np.ndarray] = []  # uint8 of shape (images, height, width, channels)

    def add(self, images: ms.Tensor) -> None:
        """Called after each denoising step with the batch's noisy images in [-1, 1]."""
        if self.step in self.wanted:
            self.frames.append(to_pixels(to_values(images))[:TRAJECTORY_IMAGES])
        self.step += 1

    def strip(self) -> Image.Image:
        """One row per image, one column per frame."""
        by_image = np.stack(self.frames, axis=1)  # (images, frames, height, width, channels)
        return make_grid(by_image.reshape(-1, *by_image.shape[2:]), columns=len(self.frames))

    def save(self, folder: Path, kind: str) -> Path:
        """Write it as a ``strip`` or as a ``gif``; returns the path."""
        if kind == "strip":
            path = folder / TRAJECTORY_STRIP
            self.strip().save(path)
            return path
        path = folder / TRAJECTORY_GIF
        first, *others = [make_grid(frame).convert("RGB") for frame in self.frames]
        durations_ms = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
        first.save(path, save_all=True, append_images=others, duration=durations_ms, loop=0)
        return path

"""The unconditional job: images to noisy images to a loss, and the pipeline that samples from what was learned.

A job is a small contract: which columns a batch has, how it is made, how it becomes one loss a sample, and which
pipeline holds the result. It has no loop of its own.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm.config import TrainingConfig
from mindone_ddpm.data import ImageRecords
from mindone_ddpm.runtime import quiet_imports

with quiet_imports():
    from mindone.diffusers import DDPMPipeline


class DenoisingLoss(nn.Cell):
    """The denoising loss of each sample (Ho et al. 2020, equation 14, and its x0 and v forms).

    ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps``; the target is ``eps`` (epsilon), ``x_0`` (sample), or
    ``sqrt(a_t) eps - sqrt(1 - a_t) x_0`` (v_prediction; Salimans & Ho 2022, appendix D).

    Args:
        unet: called as ``unet(noisy, timesteps)[0]``.
        alphas_cumprod: a_t for each timestep, float, shape (num_train_timesteps,).
        prediction_type: ``epsilon``, ``sample`` or ``v_prediction``.
    """

    def __init__(self, unet: nn.Cell, alphas_cumprod: np.ndarray, prediction_type: str):
        super().__init__(auto_prefix=False)
        self.unet = unet
        alphas = alphas_cumprod.astype(np.float64)
        self.signal = ms.Tensor(np.sqrt(alphas), ms.float32)
        self.spread = ms.Tensor(np.sqrt(1.0 - alphas), ms.float32)
        self.prediction_type = prediction_type

    def add_noise(self, images, noise, timesteps):
        """Noisy images, same shape as ``images``; ``timesteps`` int32 of shape (batch,)."""
        signal = ops.gather(self.signal, timesteps, 0).reshape(-1, 1, 1, 1)
        spread = ops.gather(self.spread, timesteps, 0).reshape(-1, 1, 1, 1)
        return signal * images + spread * noise

    def target(self, images, noise, timesteps):
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return images
        signal = ops.gather(self.signal, timesteps, 0).reshape(-1, 1, 1, 1)
        spread = ops.gather(self.spread, timesteps, 0).reshape(-1, 1, 1, 1)
        return signal * noise - spread * images

    def construct(self, images, noise, timesteps):
        """Mean squared error of each sample, float32 of shape (batch,)."""
        prediction = self.unet(self.add_noise(images, noise, timesteps), timesteps)[0]
        error = prediction.astype(ms.float32) - self.target(images, noise, timesteps)
        return ops.square(error).mean((1, 2, 3))


class UnconditionalJob:
    """Train a UNet2DModel on images, sample with a DDPMPipeline."""

    columns = ("images", "noise", "timesteps", "weights")

    def __init__(self, config: TrainingConfig, records: ImageRecords):
        self.records = records
        self.num_train_timesteps = config.ddpm_num_steps

    def make_batch(self, indices: np.ndarray, generators: list[np.random.Generator]) -> tuple[np.ndarray, ...]:
        """Images in [-1, 1] and noise, float32 of shape (batch, channels, size, size); timesteps, int32 (batch,).

        Each sample draws from its own generator, always in the same order: flip, crop, timestep, noise.
        """
        records = self.records
        shape = (len(indices), records.channels, records.size, records.size)
        images, noise = np.empty(shape, np.float32), np.empty(shape, np.float32)
        timesteps = np.empty(len(indices), np.int32)
        for row, (index, generator) in enumerate(zip(indices, generators, strict=True)):
            flip, across, down = generator.random(3)
            timesteps[row] = generator.integers(self.num_train_timesteps)
            generator.standard_normal(out=noise[row], dtype=np.float32)
            picture = records.picture(index, (across, down))
            if records.random_flip and flip < 0.5:
                picture = picture[:, :, ::-1]
            np.divide(picture, 127.5, out=images[row])
        images -= 1.0
        return images, noise, timesteps

    def loss_cell(self, unet: nn.Cell, scheduler: Any) -> DenoisingLoss:
        return DenoisingLoss(unet, scheduler.alphas_cumprod.asnumpy(), scheduler.config.prediction_type)

    def pipeline(self, unet: nn.Cell, scheduler: Any) -> DDPMPipeline:
        return DDPMPipeline(unet=unet, scheduler=scheduler)

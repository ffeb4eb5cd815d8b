"""Runs in an environment of its own, with PyTorch and diffusers: the other side of scripts/results.py.

    python peer_train.py SETTINGS.json

Trains a DDPM as the published PyTorch script does with its defaults (AdamW with betas 0.95 and 0.999 and a decay of
1e-6, cosine schedule with warm-up, clipping at 1, an average with a decay of 1 - (1 + step)^-3/4), on a folder of PNG
files that already have the model's size, and saves its pipeline with the averaged weights.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image


def read_images(folder: str) -> torch.Tensor:
    """In [-1, 1], float32 of shape (images, channels, height, width)."""
    pictures = [np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.png"))]
    pixels = np.stack([picture[..., None] if picture.ndim == 2 else picture for picture in pictures])
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0)


def train(settings: dict) -> None:
    torch.manual_seed(settings["seed"])
    unet = UNet2DModel(**settings["unet"])
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=settings.get("beta_schedule", "linear"))
    network = torch.compile(unet) if settings.get("compile") else unet
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=settings["learning_rate"], betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    schedule = get_scheduler(
        "cosine", optimizer, num_warmup_steps=settings["warmup_steps"], num_training_steps=settings["steps"]
    )
    images = read_images(settings["images"])
    started, step, batch_size = time.perf_counter(), 0, settings["batch_size"]
    while step < settings["steps"]:
        order = torch.randperm(len(images))
        for first in range(0, len(order), batch_size):  # the last batch is a short one, as in the published script
            clean = images[order[first : first + batch_size]]
            if settings["random_flip"]:
                flipped = torch.rand(len(clean)) < 0.5
                clean = torch.where(flipped[:, None, None, None], clean.flip(3), clean)
            noise = torch.randn_like(clean)
            timesteps = torch.randint(0, 1000, (len(clean),))
            prediction = network(noise_scheduler.add_noise(clean, noise, timesteps), timesteps).sample
            torch.nn.functional.mse_loss(prediction, noise).backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            ema.step(unet.parameters())
            step += 1
            if step == settings["steps"]:
                break
    seconds = time.perf_counter() - started
    ema.copy_to(unet.parameters())
    DDPMPipeline(unet=unet, scheduler=noise_scheduler).save_pretrained(settings["output_dir"])
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    train(json.loads(Path(sys.argv[1]).read_text()))

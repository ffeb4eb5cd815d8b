"""Runs in an environment of its own, with PyTorch and diffusers: the other side of test_peer.py.

    python peer_reference.py make FOLDER KIND      a pipeline with random weights, and what it answers
    python peer_reference.py answer FOLDER         what diffusers answers for the pipeline in a folder

What it answers goes into FOLDER/answer.npz: the noise it was asked with, one forward pass, and the end of a DDIM
trajectory of 50 steps, for flow matching of one of 25 Euler steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

NUM_STEPS, NUM_FLOW_STEPS = 50, 25


def make(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        layers_per_block=2,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    if kind == "ddpm":
        train_a_little(unet, DDPMScheduler())
    if kind == "ddim":
        scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
        pipeline = DDIMPipeline(unet=unet, scheduler=scheduler)
    else:
        pipeline = DDPMPipeline(unet=unet, scheduler=DDPMScheduler())
    pipeline.save_pretrained(folder, safe_serialization=True)


def train_a_little(unet: UNet2DModel, scheduler: DDPMScheduler) -> None:
    """Predicting noise with random weights magnifies rounding: 1e-6 in the input becomes 4e-2 at the trajectory's end
    in PyTorch alone. A model that has learnt something does not."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    for _ in range(150):
        colours = torch.rand(16, 3, 1, 1, generator=generator) * 2 - 1
        noise = torch.randn(16, 3, 16, 16, generator=generator)
        timesteps = torch.randint(1000, (16,), generator=generator)
        output = unet(scheduler.add_noise(colours.expand_as(noise), noise, timesteps), timesteps).sample
        loss = torch.nn.functional.mse_loss(output, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def answer(folder: Path) -> None:
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    pipeline = {"DDIMPipeline": DDIMPipeline, "DDPMPipeline": DDPMPipeline}[kind].from_pretrained(folder)
    unet = pipeline.unet.eval()
    size, channels = unet.config.sample_size, unet.config.in_channels
    noise = np.random.default_rng(1).standard_normal((2, channels, size, size)).astype(np.float32)
    timesteps = torch.tensor([10, 700])
    labels = torch.tensor([0, 1]) if unet.config.num_class_embeds else None
    output = unet(torch.from_numpy(noise), timesteps, class_labels=labels).sample
    is_flow = "FlowMatch" in type(pipeline.scheduler).__name__
    scheduler = pipeline.scheduler if is_flow else DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(NUM_FLOW_STEPS if is_flow else NUM_STEPS)
    images = torch.from_numpy(noise)
    for timestep in scheduler.timesteps:
        images = scheduler.step(unet(images, timestep, class_labels=labels).sample, timestep, images).prev_sample
    if labels is None:  # the pipeline's own loop, which takes no labels
        pipeline.set_progress_bar_config(disable=True)
        sampled = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
        assert sampled.shape == (2, size, size, channels) and np.isfinite(sampled).all()
    np.savez(folder / "answer.npz", noise=noise, output=output.numpy(), trajectory=images.numpy())


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "make":
        make(Path(folder), *rest)
    answer(Path(folder))

"""Runs in an environment of its own, with PyTorch and diffusers: the other side of test_peer.py for text to image.

python peer_text_to_image.py PIPELINE BATCH [ADAPTERS]     each sample's loss, into answer.npz in BATCH's folder
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline


@torch.no_grad()
def main(pipeline: str, batch: str, *rest: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    if rest:
        pipe.load_lora_weights(rest[0])
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    data = {name: torch.from_numpy(array) for name, array in np.load(batch).items()}
    posterior = pipe.vae.encode(data["images"]).latent_dist
    latents = (posterior.mean + posterior.std * data["posterior_noise"]) * pipe.vae.config.scaling_factor
    embeddings = pipe.text_encoder(data["tokens"].long())[0]
    timesteps = data["timesteps"].long()
    noisy = scheduler.add_noise(latents, data["noise"], timesteps)
    output = pipe.unet(noisy, timesteps, embeddings).sample
    loss = torch.nn.functional.mse_loss(output, data["noise"], reduction="none").mean((1, 2, 3))
    parts = {"latents": latents, "embeddings": embeddings, "output": output, "loss": loss}
    np.savez(Path(batch).with_name("answer.npz"), **{name: part.numpy() for name, part in parts.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Runs in an environment of its own, with PyTorch and diffusers: the other side of test_peer.py for text to image.

python peer_text_to_image.py PIPELINE BATCH [ADAPTERS | EMBEDDING]

Each image's loss, into answer.npz in BATCH's folder; and the image that the pipeline makes from the batch's first noise
for PROMPT of the batch, if it has one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline


@torch.no_grad()
def main(pipeline: str, batch: str, *rest: str) -> None:
    pipe = DiffusionPipeline.from_pretrained(pipeline)
    if rest and (Path(rest[0]) / "learned_embeds.safetensors").exists():
        pipe.load_textual_inversion(rest[0])
    elif rest:
        pipe.load_lora_weights(rest[0])
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    loaded = dict(np.load(batch))
    prompt = str(loaded.pop("prompt", ""))
    data = {name: torch.from_numpy(array) for name, array in loaded.items()}
    posterior = pipe.vae.encode(data["images"]).latent_dist
    latents = (posterior.mean + posterior.std * data["posterior_noise"]) * pipe.vae.config.scaling_factor
    conditions = {}
    if "sizes" in data:  # XL
        second = pipe.text_encoder_2(data["tokens_2"].long(), output_hidden_states=True)
        first = pipe.text_encoder(data["tokens"].long(), output_hidden_states=True)
        embeddings = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        conditions = {"added_cond_kwargs": {"text_embeds": second[0], "time_ids": data["sizes"]}}
    else:
        embeddings = pipe.text_encoder(data["tokens"].long())[0]
    timesteps = data["timesteps"].long()
    noisy = scheduler.add_noise(latents, data["noise"], timesteps)
    output = pipe.unet(noisy, timesteps, embeddings, **conditions).sample
    loss = torch.nn.functional.mse_loss(output, data["noise"], reduction="none").mean((1, 2, 3))
    parts = {"latents": latents, "embeddings": embeddings, "output": output, "loss": loss}
    if prompt:
        made = pipe(prompt, num_inference_steps=4, guidance_scale=3.0, latents=data["noise"][:1], output_type="np")
        parts["image"] = torch.from_numpy(made.images)
    np.savez(Path(batch).with_name("answer.npz"), **{name: part.numpy() for name, part in parts.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])

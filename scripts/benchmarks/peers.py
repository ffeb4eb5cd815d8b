"""Workers for PyTorch and diffusers, run by the environment that scripts/peer.sh makes.

``options["mode"]`` says how PyTorch runs: eager, compile (torch.compile), channels_last, or both of the latter. With
precision bf16 all of them run under autocast, as PyTorch recommends it: float32 weights, products in bf16.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from typing import Any

from benchmarks.clock import cpu_seconds, peak_memory_mb, timed
from benchmarks.errors import torch_errors

MODES = ("eager", "compile", "channels_last", "channels_last+compile")


def peer_unet(options: dict[str, Any]) -> Any:
    """The UNet, laid out and compiled as the mode says, and what turns images into its layout."""
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    unet = UNet2DModel(sample_size=options["image_size"], in_channels=3, out_channels=3, **options["unet"])
    layout = torch.channels_last if "channels_last" in options["mode"] else torch.contiguous_format
    unet = unet.to(memory_format=layout)
    if "compile" in options["mode"]:
        unet.forward = torch.compile(unet.forward)
    return unet, lambda images: images.to(memory_format=layout)


def precision_of(options: dict[str, Any]) -> Any:
    import torch

    return torch.autocast("cpu", torch.bfloat16) if options["precision"] == "bf16" else contextlib.nullcontext()


def torch_train(options: dict[str, Any]) -> dict[str, Any]:
    import torch

    unet, laid_out = peer_unet(options)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=1e-6)
    shape = (options["batch_size"], 3, options["image_size"], options["image_size"])
    noisy, noise = laid_out(torch.randn(shape)), laid_out(torch.randn(shape))
    timesteps = torch.randint(0, 1000, shape[:1])

    def step() -> None:
        with precision_of(options):
            prediction = unet(noisy, timesteps).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    first = timed(step)
    times = [timed(step) for _ in range(options["warmup"] + options["steps"])][options["warmup"] :]
    return {
        "step_s": statistics.median(times),
        "step_cpu_s": statistics.median(cpu_seconds(step) for _ in range(options["steps"])),
        "first_step_s": first,
        "peak_memory_mb": peak_memory_mb(),
    }


def torch_sample(options: dict[str, Any]) -> dict[str, Any]:
    import torch
    from diffusers import DDIMScheduler

    (unet, laid_out), scheduler = peer_unet(options), DDIMScheduler()
    unet.eval()
    shape = (options["batch_size"], 3, options["image_size"], options["image_size"])

    def denoise(steps: int) -> None:
        scheduler.set_timesteps(steps)
        images = laid_out(torch.randn(shape))
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                with precision_of(options):
                    output = unet(images, timestep).sample
                images = scheduler.step(output.float(), timestep, images).prev_sample
        images.sum().item()

    first = timed(lambda: denoise(2))
    return {
        "step_s": timed(lambda: denoise(options["steps"])) / options["steps"],
        "step_cpu_s": cpu_seconds(lambda: denoise(options["steps"])) / options["steps"],
        "first_two_steps_s": first,
    }


WORKERS: dict[str, Any] = {"torch_train": torch_train, "torch_sample": torch_sample, "torch_errors": torch_errors}

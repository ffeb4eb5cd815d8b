"""Rounding errors of a UNet and of its gradient: both sides in each precision against PyTorch in float64."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OURS = (
    ("mindone_ddpm, float32", {"precision": "no", "native": "1"}),
    ("mindone_ddpm, bf16", {"precision": "bf16", "native": "1"}),
    ("MindSpore's own operators, float32", {"precision": "no", "native": "0"}),
)
PEERS = ("float64", "float32", "bf16")


def measure_errors(options: dict[str, Any], run_worker: Callable[[str, dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """A row for each: the root mean square of what differs from float64, in units of that of float64's values.

    The gradient is that of all weights together, of the output's product with random numbers. The weights are
    PyTorch's random ones. bf16 is computed on every CPU, by those without instructions for it slowly.
    diffusers computes the embedding of the time in float32 always.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_worker("torch_errors", {**options, "folder": folder})
        for name, how in OURS:
            run_worker("errors", {"folder": folder, "name": name, **how})
        exact = dict(np.load(Path(folder) / "float64.npz"))

        def error(found: dict[str, Any], names: list[str]) -> float:
            both = [(found[name], exact[name]) for name in names]
            return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in both) / sum((b**2).sum() for _, b in both)))

        rows = []
        for name, file in [(name, name) for name, _ in OURS] + [(f"torch, {name}", name) for name in PEERS[1:]]:
            found = dict(np.load(Path(folder) / f"{file}.npz"))
            rows.append(
                {
                    "": name,
                    "output": error(found, ["output"]),
                    "gradient": error(found, [name for name in exact if name != "output"]),
                }
            )
    return rows


def torch_errors(options: dict[str, Any]) -> dict[str, Any]:
    """Makes the UNet and what it gets, and computes the values in each of PyTorch's precisions."""
    import torch
    from diffusers import UNet2DModel

    folder = Path(options["folder"])
    torch.manual_seed(0)
    size = options["image_size"]
    settings = {**options["unet"], "dropout": 0.0}  # which is random
    UNet2DModel(sample_size=size, in_channels=3, out_channels=3, **settings).save_pretrained(folder)
    generator = np.random.default_rng(0)
    shape = (options["batch_size"], 3, size, size)
    given = {name: generator.standard_normal(shape).astype(np.float32) for name in ("images", "outward")}
    given["timesteps"] = np.linspace(0, 999, shape[0]).astype(np.int32)
    np.savez(folder / "given.npz", **given)
    for precision in PEERS:
        dtype = torch.float64 if precision == "float64" else torch.float32
        unet = UNet2DModel.from_pretrained(folder).to(dtype)
        in_bf16 = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        with in_bf16:
            output = unet(torch.tensor(given["images"], dtype=dtype), torch.tensor(given["timesteps"])).sample
        output = output.to(dtype)
        (output * torch.tensor(given["outward"], dtype=dtype)).sum().backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in unet.named_parameters()}
        np.savez(folder / f"{precision}.npz", output=output.detach().numpy(), **gradients)
    return {}


def our_errors(options: dict[str, Any]) -> dict[str, Any]:
    os.environ["MINDONE_DDPM_NATIVE"] = options["native"]
    from mindone_ddpm.models.precision import set_compute_precision
    from mindone_ddpm.runtime.start import start

    start("CPU", "pynative", 0)
    import mindspore as ms
    from mindone.diffusers import UNet2DModel

    from mindone_ddpm.backends.cpu import native

    if options["native"] == "1" and native.library() is None:
        raise RuntimeError("the operators in C++ are not there")
    folder = Path(options["folder"])
    unet = UNet2DModel.from_pretrained(str(folder))
    set_compute_precision(unet, options["precision"])
    unet.set_train(True)
    given = {name: ms.Tensor(values) for name, values in np.load(folder / "given.npz").items()}
    parameters = unet.trainable_params()
    names = [parameter.name for parameter in parameters]

    def product(images: Any, timesteps: Any) -> Any:
        output = unet(images, timesteps, return_dict=False)[0]
        return (output * given["outward"]).sum(), output

    compute = ms.value_and_grad(product, None, parameters, has_aux=True)
    (_, output), gradients = compute(given["images"], given["timesteps"])
    arrays = {name: gradient.asnumpy() for name, gradient in zip(names, gradients, strict=True)}
    np.savez(folder / f"{options['name']}.npz", output=output.asnumpy(), **arrays)
    return {}

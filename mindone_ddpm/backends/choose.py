"""From a device's name to its backend."""

from __future__ import annotations

import os

from mindone_ddpm.backends import kernels
from mindone_ddpm.backends.base import Backend


def choose(device: str) -> Backend:
    missing = kernels.missing_precisions(device)
    return Backend(
        name=device,
        default_precision="no" if device == "CPU" else "fp16",
        precisions=tuple(name for name in ("no", "fp16", "bf16") if name not in missing),
        caches_graphs=device == "CPU",
        fused_attention=kernels.has_fused_attention(device),
        flat_collectives=device == "CPU",
        gradients=kernels.gradient_kernels,
        adamw=kernels.adam_kernel,
        ema=kernels.average_kernel,
        graph_facts=lambda: (kernels.installed(), os.environ.get("ONEDNN_MAX_CPU_ISA")),
    )

"""Ascend NPUs: nothing is substituted. MindSpore's and mindone's own operators run."""

from __future__ import annotations

from mindone_ddpm.backends.base import Backend, adamw_plain, ema_plain, gradients_plain
from mindone_ddpm.common.machine import cpu_features

BACKEND = Backend(
    name="Ascend",
    default_precision="fp16",
    precisions=("no", "fp16", "bf16"),
    caches_graphs=False,
    fused_attention=True,
    flat_collectives=False,
    gradients=gradients_plain,
    adamw=adamw_plain,
    ema=ema_plain,
    install=lambda: None,
    graph_facts=lambda: {"cpu": cpu_features()},
    counts_memory=True,
)

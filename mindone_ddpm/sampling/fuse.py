"""Put LoRA adapters and learned words into a pipeline, and save it."""

from __future__ import annotations

from pathlib import Path

from mindone_ddpm.common.files import atomic_folder, check_writable
from mindone_ddpm.models import lora, new_tokens
from mindone_ddpm.models.pipelines import load_text_pipeline, save_text_pipeline
from mindone_ddpm.runtime.start import start
from mindone_ddpm.sampling.config import FuseConfig


def fuse(config: FuseConfig) -> Path:
    """Write a pipeline that needs neither its adapters nor its embeddings any more; returns its folder.

    Raises:
        ConfigError: the pipeline, the adapters or the folder cannot be used; before anything is written.
    """
    config.check()
    folder = Path(config.output_dir)
    check_writable(folder)
    start(config.device, "pynative", seed=0, alone=True)  # nothing is computed but sums of weights
    pipeline = load_text_pipeline(config.model, hub=config.hub)
    if config.lora is not None:
        lora.merge_adapters(pipeline, config.lora)
    if config.embedding is not None:
        new_tokens.load_into(pipeline, config.embedding)
        new_tokens.join_rows(pipeline)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as tmp_path:
        save_text_pipeline(pipeline, tmp_path)
    return folder

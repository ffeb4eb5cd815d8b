"""What the unconditional job saves."""

from __future__ import annotations

import shlex
from pathlib import Path

from mindone_ddpm.config.groups import BUILT_IN_DATASETS
from mindone_ddpm.config.values import EVALUATION
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.output.product import Product

FEW_IMAGES = 5000  # a model that trains on fewer may learn them by heart


def copies_advice(config: TrainingConfig, num_images: int) -> str:
    """How to look for copies of the training images, where they are few; else empty."""
    if num_images >= FEW_IMAGES:
        return ""
    source = "train_data_dir" if config.train_data_dir is not None else "dataset_name"
    features = "digits" if config.dataset_name in BUILT_IN_DATASETS else "pixels"
    words = ["mindone-ddpm", "evaluate", "--model", config.output_dir, f"--{source}", str(getattr(config, source))]
    words += ["--metrics", "kid", "--features", features, "--num_samples", "1000", "--copies"]
    words += ["--output_dir", str(Path(config.output_dir) / EVALUATION)]
    return f"{num_images:,} images are few: the model may copy them. To see: {shlex.join(words)}"


def unconditional_product(config: TrainingConfig, num_images: int = FEW_IMAGES) -> Product:
    is_flow = config.objective == "flow_matching"
    return Product(
        command="train",
        noun="pipeline",
        index_file=PIPELINE_INDEX,
        parts=("unet", "scheduler"),
        pipeline_tag="unconditional-image-generation",
        tags=("mindspore", "mindone", "ddpm"),
        # The libraries' own pipeline takes no class labels.
        pipeline_class=None if config.class_conditional else "DDPMPipeline",
        call="pipeline(batch_size=4, num_inference_steps=50)" if is_flow else "pipeline(batch_size=4)",
        base_model=config.pretrained_model_name_or_path,
        sample_options=("--class_label", "0") if config.class_conditional else (),
        advice=copies_advice(config, num_images),
    )

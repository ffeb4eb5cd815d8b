"""What the unconditional job saves."""

from __future__ import annotations

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.pipelines import PIPELINE_INDEX
from mindone_ddpm.output.product import Product


def unconditional_product(config: TrainingConfig) -> Product:
    return Product(
        command="train",
        noun="pipeline",
        index_file=PIPELINE_INDEX,
        parts=("unet", "scheduler"),
        pipeline_tag="unconditional-image-generation",
        tags=("mindspore", "mindone", "ddpm"),
        # The libraries' own pipeline takes no class labels.
        pipeline_class=None if config.class_conditional else "DDPMPipeline",
        call="pipeline(batch_size=4)",
        base_model=config.pretrained_model_name_or_path,
        sample_options=("--class_label", "0") if config.class_conditional else (),
    )

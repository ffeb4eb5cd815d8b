"""What the text-to-image job saves: a Stable Diffusion pipeline, or LoRA adapters for one."""

from __future__ import annotations

from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.models import lora
from mindone_ddpm.models.pipelines import PIPELINE_INDEX
from mindone_ddpm.output.product import Product

PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "feature_extractor")


def text_to_image_product(config: TextToImageConfig) -> Product:
    is_lora, base = config.rank is not None, config.pretrained_model_name_or_path
    return Product(
        command="train_text_to_image",
        noun="adapters" if is_lora else "pipeline",
        index_file=lora.WEIGHTS_FILE if is_lora else PIPELINE_INDEX,
        parts=() if is_lora else PARTS,
        pipeline_tag="text-to-image",
        tags=("mindspore", "mindone", "stable-diffusion", *(["lora"] if is_lora else [])),
        pipeline_class="StableDiffusionPipeline",
        call='pipeline("a prompt")',
        adapters_of=base if is_lora else None,
        base_model=base,
        sample_options=() if is_lora else ("--prompt", "a prompt"),
    )

"""What fine-tuning Stable Diffusion saves: a pipeline, or LoRA adapters for one."""

from __future__ import annotations

from mindone_ddpm.jobs.text_to_image.config import AdapterConfig
from mindone_ddpm.models import lora
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.models.pipelines import XL_PIPELINE
from mindone_ddpm.output.card import in_python
from mindone_ddpm.output.product import Product

PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "feature_extractor")
MORE_PARTS_OF_XL = ("text_encoder_2", "tokenizer_2")
TAGS = ("mindspore", "mindone", "stable-diffusion")


def fine_tuned_product(
    config: AdapterConfig, command: str, kind: str, prompt: str = "a prompt", tags: tuple[str, ...] = ()
) -> Product:
    """
    Args:
        command: the job's.
        kind: the class of the pipeline.
        prompt: one that shows what was trained.
    """
    is_lora, base = config.rank is not None, config.pretrained_model_name_or_path
    of_xl = kind == XL_PIPELINE
    return Product(
        command=command,
        noun="adapters" if is_lora else "pipeline",
        index_file=lora.WEIGHTS_FILE if is_lora else PIPELINE_INDEX,
        parts=() if is_lora else (*PARTS, *(MORE_PARTS_OF_XL if of_xl else ())),
        pipeline_tag="text-to-image",
        tags=(*TAGS, *(["stable-diffusion-xl"] if of_xl else []), *tags, *(["lora"] if is_lora else [])),
        pipeline_class=kind,
        call=f"pipeline({in_python(prompt)})",
        adapters_of=base if is_lora else None,
        base_model=base,
        sample_options=() if is_lora else ("--prompt", prompt),
    )

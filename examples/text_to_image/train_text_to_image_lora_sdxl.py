"""Fine-tune Stable Diffusion XL by LoRA adapters on captioned images; takes the published script's flags and defaults.

    python examples/text_to_image/train_text_to_image_lora_sdxl.py \
        --pretrained_model_name_or_path=stabilityai/stable-diffusion-xl-base-1.0 \
        --pretrained_vae_model_name_or_path=madebyollin/sdxl-vae-fp16-fix \
        --dataset_name=lambdalabs/naruto-blip-captions --resolution=1024 --random_flip --train_batch_size=1 \
        --num_train_epochs=2 --checkpointing_steps=500 --learning_rate=1e-04 --lr_scheduler=constant \
        --lr_warmup_steps=0 --mixed_precision=fp16 --seed=42 --output_dir=sd-naruto-lora-sdxl \
        --validation_prompt="cute dragon creature"

`mindone-ddpm train_text_to_image_sdxl --rank 4` does the same.
"""

import sys

import mindone_ddpm as md

DEFAULTS = {"rank": 4, "output_dir": "sd-model-finetuned-lora"}


def main() -> int:
    config = md.parse_training_arguments(config_class=md.TextToImageXLConfig, defaults=DEFAULTS)
    print(f"trained; the adapters are in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

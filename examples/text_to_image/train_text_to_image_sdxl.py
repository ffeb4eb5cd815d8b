"""Fine-tune Stable Diffusion XL's UNet on captioned images; takes the published script's flags and defaults.

    python examples/text_to_image/train_text_to_image_sdxl.py \
        --pretrained_model_name_or_path=stabilityai/stable-diffusion-xl-base-1.0 \
        --pretrained_vae_model_name_or_path=madebyollin/sdxl-vae-fp16-fix \
        --dataset_name=lambdalabs/naruto-blip-captions --resolution=512 --center_crop --random_flip \
        --proportion_empty_prompts=0.2 --train_batch_size=1 --gradient_accumulation_steps=4 --gradient_checkpointing \
        --max_train_steps=10000 --learning_rate=1e-06 --lr_scheduler=constant --lr_warmup_steps=0 \
        --mixed_precision=fp16 --validation_prompt="a cute creature" --validation_epochs=5 \
        --checkpointing_steps=5000 --output_dir=sdxl-naruto-model

`mindone-ddpm train_text_to_image_sdxl` does the same.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    config = md.parse_training_arguments(config_class=md.TextToImageXLConfig)
    print(f"trained; the pipeline is in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

"""Fine-tune Stable Diffusion by LoRA adapters on captioned images; takes the published script's flags and defaults.

    python examples/text_to_image/train_text_to_image_lora.py \
        --pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --dataset_name=lambdalabs/naruto-blip-captions --dataloader_num_workers=8 --resolution=512 --center_crop \
        --random_flip --train_batch_size=1 --gradient_accumulation_steps=4 --max_train_steps=15000 \
        --learning_rate=1e-04 --max_grad_norm=1 --lr_scheduler=cosine --lr_warmup_steps=0 \
        --output_dir=sd-naruto-lora --checkpointing_steps=500 --validation_prompt="A naruto with blue eyes." --seed=1337

`mindone-ddpm train_text_to_image --rank 4` does the same.
"""

import sys

import mindone_ddpm as md

DEFAULTS = {"rank": 4, "output_dir": "sd-model-finetuned-lora", "num_validation_images": 4, "save_image_epochs": 1}


def main() -> int:
    config = md.parse_training_arguments(config_class=md.TextToImageConfig, defaults=DEFAULTS)
    print(f"trained; the adapters are in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

"""Teach Stable Diffusion a subject by LoRA adapters; takes the published script's flags and defaults.

    python examples/dreambooth/train_dreambooth_lora.py \
        --pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5 --instance_data_dir=dog \
        --instance_prompt="a photo of sks dog" --resolution=512 --train_batch_size=1 --gradient_accumulation_steps=1 \
        --checkpointing_steps=100 --learning_rate=1e-4 --lr_scheduler=constant --lr_warmup_steps=0 \
        --max_train_steps=500 --validation_prompt="A photo of sks dog in a bucket" --validation_epochs=50 --seed=0 \
        --output_dir=my-dog-adapters

`mindone-ddpm train_dreambooth --rank 4` does the same.
"""

import sys

import mindone_ddpm as md

DEFAULTS = {"rank": 4, "output_dir": "lora-dreambooth-model", "save_image_epochs": 50}


def main() -> int:
    config = md.parse_training_arguments(config_class=md.DreamBoothConfig, defaults=DEFAULTS)
    print(f"trained; the adapters are in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

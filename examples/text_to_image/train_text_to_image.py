"""Fine-tune Stable Diffusion's UNet on captioned images; takes the published script's flags.

    python examples/text_to_image/train_text_to_image.py --pretrained_model_name_or_path=CompVis/stable-diffusion-v1-4 \
        --dataset_name=lambdalabs/naruto-blip-captions --resolution=512 --center_crop --random_flip \
        --train_batch_size=1 --gradient_accumulation_steps=4 --max_train_steps=15000 --learning_rate=1e-05 \
        --max_grad_norm=1 --lr_scheduler=constant --lr_warmup_steps=0 --output_dir=sd-naruto-model

With --rank 4 it trains LoRA adapters of rank 4 instead of the UNet. `mindone-ddpm train_text_to_image` does the same.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    config = md.parse_training_arguments(config_class=md.TextToImageConfig)
    print(f"trained; the result is in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

"""Teach Stable Diffusion a subject from a few images; takes the published script's flags and defaults.

    python examples/dreambooth/train_dreambooth.py --pretrained_model_name_or_path=CompVis/stable-diffusion-v1-4 \
        --instance_data_dir=dog --instance_prompt="a photo of sks dog" --with_prior_preservation \
        --class_data_dir=dogs --class_prompt="a photo of dog" --num_class_images=200 --resolution=512 \
        --train_batch_size=1 --learning_rate=5e-6 --lr_scheduler=constant --lr_warmup_steps=0 --max_train_steps=800 \
        --output_dir=my-dog

`mindone-ddpm train_dreambooth` does the same.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    config = md.parse_training_arguments(config_class=md.DreamBoothConfig)
    print(f"trained; the result is in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

"""Teach Stable Diffusion a new word from a few images; takes the published script's flags and defaults.

    python examples/textual_inversion/textual_inversion.py \
        --pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5 --train_data_dir=cat \
        --learnable_property=object --placeholder_token="<cat-toy>" --initializer_token=toy --resolution=512 \
        --train_batch_size=1 --gradient_accumulation_steps=4 --max_train_steps=3000 --learning_rate=5.0e-04 \
        --scale_lr --lr_scheduler=constant --lr_warmup_steps=0 --output_dir=cat-toy

`mindone-ddpm textual_inversion` does the same.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    config = md.parse_training_arguments(config_class=md.TextualInversionConfig)
    print(f"trained; the embedding is in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

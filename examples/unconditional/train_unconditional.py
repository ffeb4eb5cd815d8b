"""Replaces the published train_unconditional.py scripts: takes their flags, with their defaults.

    python examples/unconditional/train_unconditional.py --dataset_name=huggan/flowers-102-categories --resolution=64 \
        --center_crop --random_flip --output_dir=ddpm-ema-flowers-64 --train_batch_size=16 --num_epochs=100 --use_ema

On several devices: `mindone-ddpm launch -n 8 examples/unconditional/train_unconditional.py ...`, or msrun.
`mindone-ddpm train` does the same with the tutorial's defaults.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    config = md.parse_training_arguments(defaults=md.PUBLISHED_SCRIPT_DEFAULTS)
    print(f"trained; the pipeline is in {md.train(config).output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))

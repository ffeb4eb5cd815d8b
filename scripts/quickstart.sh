#!/usr/bin/env bash
# Makes .venv, trains a small UNet on the built-in digits, and writes a grid of samples. A second run reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh

# Starts training, or continues after an interruption; does nothing where training is complete.
.venv/bin/mindone-ddpm train --config examples/unconditional/digits.yaml --resume_from_checkpoint auto
.venv/bin/mindone-ddpm sample --model digits --num_images 64 --batch_size 64 --output_dir digits/images --overwrite_output_dir
echo "images: $(pwd)/digits/images/grid.png"

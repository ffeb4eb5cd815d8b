#!/usr/bin/env bash
# From nothing to a grid of digits: makes .venv, trains a small UNet, samples. Run again, it reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh

# Starts, goes on after an interruption, or finds that all is done.
.venv/bin/mindone-ddpm train --config examples/unconditional/digits.yaml --resume_from_checkpoint auto
.venv/bin/mindone-ddpm sample --model digits --num_images 64 --batch_size 64 --output_dir digits/pictures --overwrite_output_dir
echo "look at $(pwd)/digits/pictures/grid.png"

"""Make tests/data/torch_unet with PyTorch diffusers: a small UNet's weights, an input and the output for it.

Run in an environment that has torch and diffusers:  python tests/make_unet_reference.py
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

FOLDER = Path(__file__).parent.parent / "data" / "torch_unet"

torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=16,
    in_channels=3,
    out_channels=3,
    block_out_channels=(8, 16, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)
unet.save_pretrained(FOLDER)
sample = torch.randn(3, 3, 16, 16)
timesteps = torch.tensor([0, 17, 999])
with torch.no_grad():
    output = unet(sample, timesteps).sample
np.savez(FOLDER / "reference.npz", sample=sample.numpy(), timesteps=timesteps.numpy(), output=output.numpy())

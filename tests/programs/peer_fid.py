"""Runs where PyTorch is: makes random weights for pytorch-fid's network, and gives its features and FID of two folders.

    peer_fid.py OUT_DIR FOLDER FOLDER

writes ``weights.pth`` (as pytorch-fid publishes them), and ``reference.npz``.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

# torchvision's own operators are not there in a PyTorch for CPUs; its networks need none of them.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")

from pytorch_fid import fid_score, inception  # noqa: E402


def random_weights() -> dict[str, torch.Tensor]:
    """For every tensor of the network; scaled so that activations neither die nor explode."""
    generator = torch.Generator().manual_seed(0)
    holder = {}

    def keep(self, state_dict):
        holder.update(self.state_dict())

    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(torch.nn.Module, "load_state_dict", keep),
    ):
        inception.fid_inception_v3()
    weights = {}
    for name, value in holder.items():
        if value.ndim == 4:
            fan_in = value[0].numel()
            weights[name] = torch.randn(value.shape, generator=generator) * (2.0 / fan_in) ** 0.5
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            weights[name] = torch.rand(value.shape, generator=generator) * 0.5 + 0.75
        elif value.dtype == torch.float32:
            weights[name] = torch.randn(value.shape, generator=generator) * 0.1
        else:
            weights[name] = value
    return weights


def main() -> None:
    out, *folders = map(Path, sys.argv[1:])
    weights = random_weights()
    torch.save(weights, out / "weights.pth")
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=weights):
        network = inception.InceptionV3([3]).eval()
    features = []
    for folder in folders:
        features.append(fid_score.get_activations(sorted(folder.glob("*.png")), network, 8, 2048, "cpu", 0))
    statistics = [(rows.mean(0), np.cov(rows, rowvar=False)) for rows in features]
    distance = fid_score.calculate_frechet_distance(*statistics[0], *statistics[1])
    np.savez(out / "reference.npz", first=features[0], second=features[1], fid=distance)


if __name__ == "__main__":
    main()

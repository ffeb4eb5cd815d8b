"""The Inception-v3 of the FID literature, for MindSpore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import load_safetensors
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.common.hubs.base import choose_hub
from mindone_ddpm.config.values import looks_like_hub_name
from mindone_ddpm.evaluation.convert import check_inception_shapes
from mindone_ddpm.evaluation.features import as_rgb, resize_as_pytorch_fid, resize_clean

INCEPTION_FILE = "inception-2015-12-05.safetensors"  # its name in a repository on a hub


class Unit(nn.Cell):
    """Convolution, batch normalisation and ReLU; the normalisation is folded into the convolution."""

    def __init__(self, weights: dict[str, np.ndarray], name: str, stride: int = 1, padding: Any = 0):
        super().__init__()
        kernel = weights[f"{name}.conv.weight"].astype(np.float64)
        variance = weights[f"{name}.bn.running_var"].astype(np.float64)
        factor = weights[f"{name}.bn.weight"] / np.sqrt(variance + 1e-3)
        outputs, inputs, height, width = kernel.shape
        self.conv = mint.nn.Conv2d(inputs, outputs, (height, width), stride=stride, padding=padding)
        self.conv.weight.set_data(ms.Tensor(kernel * factor[:, None, None, None], ms.float32))
        shift = weights[f"{name}.bn.bias"] - weights[f"{name}.bn.running_mean"] * factor
        self.conv.bias.set_data(ms.Tensor(shift, ms.float32))

    def construct(self, x):
        return ops.relu(self.conv(x))


# Pooling from slices: on Ascend, MindSpore's max_pool2d takes float16 alone, and its avg_pool2d is one for volumes.


def padded(x):
    """With a margin of one zero around each image."""
    return ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))(x)


def average_pool(x):
    """The mean of each 3x3 neighbourhood over the part of it that is inside the image."""
    return sum_of_neighbours(x) / sum_of_neighbours(ops.ones_like(x[:1, :1]))


def sum_of_neighbours(x):
    height, width = x.shape[2:]
    x = padded(x)
    x = x[:, :, :height] + x[:, :, 1 : height + 1] + x[:, :, 2:]
    return x[..., :width] + x[..., 1 : width + 1] + x[..., 2:]


def max_pool(x, stride=2, padding=0):
    """The largest of each 3x3 neighbourhood, of values that are not negative: padding with zeros changes nothing."""
    if padding:
        x = padded(x)
    height, width = x.shape[2:]
    x = ops.maximum(ops.maximum(x[:, :, : height - 2], x[:, :, 1 : height - 1]), x[:, :, 2:])[:, :, ::stride]
    return ops.maximum(ops.maximum(x[..., : width - 2], x[..., 1 : width - 1]), x[..., 2:])[..., ::stride]


class InceptionA(nn.Cell):
    def __init__(self, weights, name):
        super().__init__()
        self.branch1x1 = Unit(weights, f"{name}.branch1x1")
        self.branch5x5 = nn.SequentialCell(
            Unit(weights, f"{name}.branch5x5_1"), Unit(weights, f"{name}.branch5x5_2", padding=2)
        )
        self.branch3x3 = nn.SequentialCell(
            Unit(weights, f"{name}.branch3x3dbl_1"),
            Unit(weights, f"{name}.branch3x3dbl_2", padding=1),
            Unit(weights, f"{name}.branch3x3dbl_3", padding=1),
        )
        self.branch_pool = Unit(weights, f"{name}.branch_pool")

    def construct(self, x):
        pooled = self.branch_pool(average_pool(x))
        return ops.cat((self.branch1x1(x), self.branch5x5(x), self.branch3x3(x), pooled), 1)


class InceptionB(nn.Cell):
    def __init__(self, weights, name):
        super().__init__()
        self.branch3x3 = Unit(weights, f"{name}.branch3x3", stride=2)
        self.double = nn.SequentialCell(
            Unit(weights, f"{name}.branch3x3dbl_1"),
            Unit(weights, f"{name}.branch3x3dbl_2", padding=1),
            Unit(weights, f"{name}.branch3x3dbl_3", stride=2),
        )

    def construct(self, x):
        return ops.cat((self.branch3x3(x), self.double(x), max_pool(x)), 1)


class InceptionC(nn.Cell):
    def __init__(self, weights, name):
        super().__init__()
        across, down = (0, 3), (3, 0)
        self.branch1x1 = Unit(weights, f"{name}.branch1x1")
        self.branch7x7 = nn.SequentialCell(
            Unit(weights, f"{name}.branch7x7_1"),
            Unit(weights, f"{name}.branch7x7_2", padding=across),
            Unit(weights, f"{name}.branch7x7_3", padding=down),
        )
        self.double = nn.SequentialCell(
            Unit(weights, f"{name}.branch7x7dbl_1"),
            Unit(weights, f"{name}.branch7x7dbl_2", padding=down),
            Unit(weights, f"{name}.branch7x7dbl_3", padding=across),
            Unit(weights, f"{name}.branch7x7dbl_4", padding=down),
            Unit(weights, f"{name}.branch7x7dbl_5", padding=across),
        )
        self.branch_pool = Unit(weights, f"{name}.branch_pool")

    def construct(self, x):
        pooled = self.branch_pool(average_pool(x))
        return ops.cat((self.branch1x1(x), self.branch7x7(x), self.double(x), pooled), 1)


class InceptionD(nn.Cell):
    def __init__(self, weights, name):
        super().__init__()
        self.branch3x3 = nn.SequentialCell(
            Unit(weights, f"{name}.branch3x3_1"), Unit(weights, f"{name}.branch3x3_2", stride=2)
        )
        self.branch7x7 = nn.SequentialCell(
            Unit(weights, f"{name}.branch7x7x3_1"),
            Unit(weights, f"{name}.branch7x7x3_2", padding=(0, 3)),
            Unit(weights, f"{name}.branch7x7x3_3", padding=(3, 0)),
            Unit(weights, f"{name}.branch7x7x3_4", stride=2),
        )

    def construct(self, x):
        return ops.cat((self.branch3x3(x), self.branch7x7(x), max_pool(x)), 1)


class InceptionE(nn.Cell):
    """The last of them pools by the maximum, as in the published network, on which all published values depend."""

    def __init__(self, weights, name, pools_by_maximum):
        super().__init__()
        across, down = (0, 1), (1, 0)
        self.pools_by_maximum = pools_by_maximum
        self.branch1x1 = Unit(weights, f"{name}.branch1x1")
        self.branch3x3 = Unit(weights, f"{name}.branch3x3_1")
        self.branch3x3_a = Unit(weights, f"{name}.branch3x3_2a", padding=across)
        self.branch3x3_b = Unit(weights, f"{name}.branch3x3_2b", padding=down)
        self.double = nn.SequentialCell(
            Unit(weights, f"{name}.branch3x3dbl_1"), Unit(weights, f"{name}.branch3x3dbl_2", padding=1)
        )
        self.double_a = Unit(weights, f"{name}.branch3x3dbl_3a", padding=across)
        self.double_b = Unit(weights, f"{name}.branch3x3dbl_3b", padding=down)
        self.branch_pool = Unit(weights, f"{name}.branch_pool")

    def construct(self, x):
        one, two = self.branch3x3(x), self.double(x)
        pooled = max_pool(x, 1, 1) if self.pools_by_maximum else average_pool(x)
        return ops.cat(
            (
                self.branch1x1(x),
                self.branch3x3_a(one),
                self.branch3x3_b(one),
                self.double_a(two),
                self.double_b(two),
                self.branch_pool(pooled),
            ),
            1,
        )


class InceptionV3(nn.Cell):
    """Szegedy et al. 2016 as TensorFlow published it in 2015, which FID is defined by; weights named as in PyTorch's.

    From (images, 3, 299, 299) in [-1, 1] to features (images, 2048) and logits (images, 1008), float32. The logits have
    no bias, as in the inception score's original code.
    """

    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        self.stem = nn.SequentialCell(
            Unit(weights, "Conv2d_1a_3x3", stride=2),
            Unit(weights, "Conv2d_2a_3x3"),
            Unit(weights, "Conv2d_2b_3x3", padding=1),
        )
        self.second = nn.SequentialCell(Unit(weights, "Conv2d_3b_1x1"), Unit(weights, "Conv2d_4a_3x3"))
        self.mixed = nn.SequentialCell(
            *[InceptionA(weights, f"Mixed_5{letter}") for letter in "bcd"],
            InceptionB(weights, "Mixed_6a"),
            *[InceptionC(weights, f"Mixed_6{letter}") for letter in "bcde"],
            InceptionD(weights, "Mixed_7a"),
            InceptionE(weights, "Mixed_7b", pools_by_maximum=False),
            InceptionE(weights, "Mixed_7c", pools_by_maximum=True),
        )
        self.classes = ms.Parameter(ms.Tensor(weights["fc.weight"], ms.float32), name="classes", requires_grad=False)

    def construct(self, x):
        x = max_pool(self.stem(x))
        x = max_pool(self.second(x))
        features = self.mixed(x).mean((2, 3))
        return features, ops.matmul(features, self.classes.swapaxes(0, 1))


def find_inception_weights(name: str | None, hub: str = HUGGINGFACE) -> Path:
    """The file of weights: a local one, or ``inception-2015-12-05.safetensors`` of a repository on a hub.

    Raises:
        ConfigError: there is none.
    """
    if name is None:
        raise ConfigError(
            "--inception_weights: give the Inception-v3 of the FID literature as safetensors (see docs/metrics.md), "
            "or use --features digits"
        )
    path = Path(name)
    if path.is_file():
        return path
    if path.exists() or not looks_like_hub_name(name):
        raise ConfigError(f"--inception_weights {name}: no such file, and no name on a hub")
    chosen = choose_hub(hub)
    try:
        return chosen.fetch_file(name, INCEPTION_FILE)
    except ConfigError:
        raise
    except Exception as error:  # clients of hubs raise many kinds
        raise ConfigError(
            f"--inception_weights {name}: {INCEPTION_FILE} not found there ({first_line(error)})"
        ) from error


def load_inception(name: str | None, resize: str, hub: str = HUGGINGFACE) -> Inception:
    """The network with weights from a file or a hub.

    Args:
        name, hub: see :func:`find_inception_weights`.
        resize: of :data:`mindone_ddpm.evaluation.features.RESIZES`.

    Raises:
        ConfigError: there are no such weights, or they are of another network.
    """
    from safetensors import SafetensorError

    path = find_inception_weights(name, hub)
    try:
        weights = load_safetensors(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"--inception_weights {path}: is no safetensors file ({first_line(error)})") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    try:
        check_inception_shapes(weights)
        return Inception(weights, digest, resize)
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(f"--inception_weights {path}: are of another network ({first_line(error)})") from error


class Inception:
    """The published network; a FeatureNetwork. ``weights_name`` and ``resize`` are part of its identity."""

    prefix, width = "", 2048

    def __init__(self, weights: dict[str, np.ndarray], weights_name: str, resize: str):
        self.network = InceptionV3(weights)
        self.network.set_train(False)
        self.resize: Callable[[np.ndarray], np.ndarray] = resize_clean if resize == "clean" else resize_as_pytorch_fid
        self.identity = f"inception-v3 {weights_name}, resize {resize}"

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, logits = self.network(ms.Tensor(self.resize(as_rgb(pixels)), ms.float32))
        return features.asnumpy(), logits.asnumpy()

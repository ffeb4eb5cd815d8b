"""The device memory of a training step on Ascend, by formula.

MindSpore's plan there (graph mode, 2.7 to 2.10) was read operator by operator. The formula adds up what it keeps:

- always: weights, the optimizer's state, averages, sums of gradients, all float32; with all weights in one vector
  also their copies in half precision;
- from the forward to the backward pass: for every layer, the activations that its gradient needs, and in half
  precision, where each weight is a parameter of its own, a copy of it;
- during the backward pass: the gradients found so far, and what the layer at work needs for itself.

The backward pass frees the activations of a layer and adds its gradients, from the last layer to the first. The peak is
its worst moment, or that of the update after it.

Attention is mindone's on Ascend: fused and always in half precision, so no attention matrix is kept. What CANN's
kernels need as workspace is not known and not included.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

FLOAT, HALF = 4, 2  # bytes

# Copies of the trained parameters in float32 at the worst moment of the update: in one vector, the gradients and the
# vector that they are copied to; else gradients, scaled gradients and products, some of each.
COPIES_IN_UPDATE = {True: 2.0, False: 3.05}
# The two sums of each row that fused attention keeps, eight float32 each.
ATTENTION_ROW_BYTES = 2 * 8 * FLOAT


class LayerMemory(NamedTuple):
    """Bytes of one layer.

    Attributes:
        kept: activations, and copies of weights, from the forward pass until its backward pass.
        working: what its backward pass needs beside them.
        gradients: of its trained parameters.
    """

    kept: float
    working: float
    gradients: float


class MemoryUse(NamedTuple):
    """Device memory of a training step, in bytes.

    Attributes:
        parameters: all weights, the frozen ones among them, and copies in half precision that are there always.
        optimizer: its state, and the sums of gradients where they are accumulated.
        ema: the averaged weights.
        activations: all that lives during a step only: activations, gradients, copies.
        peak: the most at any moment.
    """

    parameters: float
    optimizer: float
    ema: float
    activations: float
    peak: float


def estimate_activations(
    unet: Any, batch_size: int, half: bool, checkpointing: bool, flat: bool = True, text_tokens: int = 77
) -> float:
    """What lives during a training step only, in bytes.

    Args:
        unet: a UNet2DModel or UNet2DConditionModel; the size of its input is ``config.sample_size``.
        half: whether it computes in half precision.
        checkpointing: whether residual, attention and feed-forward blocks are computed again in the backward pass.
        flat: whether all trained weights are in one vector: see ``training.weights``.
        text_tokens: the length of the text that it is conditioned on.
    """
    layers = list(unet_layers(unet, batch_size, half, checkpointing, flat, text_tokens))
    trained = FLOAT * sum(parameter.size for parameter in unet.trainable_params())
    kept = sum(layer.kept for layer in layers)
    gradients = worst = 0.0
    for layer in reversed(layers):
        worst = max(worst, kept + gradients + layer.working)
        kept -= layer.kept
        gradients += layer.gradients
    return max(worst, COPIES_IN_UPDATE[flat] * trained)


def unet_layers(
    unet: Any, batch_size: int, half: bool, checkpointing: bool, flat: bool, text_tokens: int
) -> Iterator[LayerMemory]:
    """The layers of a UNet, in the order of the forward pass."""
    size = unet.config.sample_size
    side = size if isinstance(size, int) else max(size)
    walk = _Walk(batch_size, half, checkpointing, flat, text_tokens)
    pixels = batch_size * side * side
    yield walk.convolution(unet.conv_in, pixels)
    for block in unet.down_blocks:
        yield from walk.block(block, pixels)
        for layer in block.downsamplers or ():
            yield walk.convolution(layer.conv, pixels)
            pixels //= 4
    if unet.mid_block is not None:
        yield from walk.block(unet.mid_block, pixels)
    for block in unet.up_blocks:
        yield from walk.block(block, pixels)
        for layer in block.upsamplers or ():
            pixels *= 4
            yield walk.convolution(layer.conv, pixels)
    # The gradient of the last normalisation, in float32 whatever the precision, is where the backward pass begins.
    channels = unet.conv_norm_out.num_channels
    yield LayerMemory(FLOAT * channels * pixels, 2 * FLOAT * channels * pixels, 0)


class _Walk:
    """Makes a :class:`LayerMemory` of a cell of mindone. ``positions`` are pixels or tokens of all images together."""

    def __init__(self, batch_size: int, half: bool, checkpointing: bool, flat: bool, text_tokens: int):
        self.batch_size, self.half, self.checkpointing, self.text_tokens = batch_size, half, checkpointing, text_tokens
        self.flat = flat
        self.byte = HALF if half else FLOAT  # of an activation
        self.norm_bytes = FLOAT + self.byte  # a normalisation keeps its input in float32, and its output

    def block(self, block: Any, positions: int) -> Iterator[LayerMemory]:
        """The residual layers of a block, and after each its attention, where there is one."""
        for resnet, attention in zip_longest(block.resnets, getattr(block, "attentions", None) or ()):
            yield self.resnet(resnet, positions)
            if attention is not None:
                yield self.attention(attention, positions)

    def layer(self, cell: Any, kept: float, working: float, recomputed: float = 0.0) -> LayerMemory:
        """With recomputation, ``kept`` shrinks to ``recomputed`` and lives while the layer is at work."""
        weights = self.weight_bytes(cell)
        if self.checkpointing and recomputed:
            kept, working = recomputed, working + kept
        trained = sum(parameter.size for parameter in cell.trainable_params())
        return LayerMemory(kept + weights, working, trained * (HALF if self.half and self.flat else FLOAT))

    def weight_bytes(self, cell: Any) -> float:
        """Of the copies that are made where a weight is used."""
        copies = self.half and not self.flat
        return HALF * sum(parameter.size for parameter in cell.get_parameters()) if copies else 0

    def convolution(self, cell: Any, positions: int) -> LayerMemory:
        channels = cell.in_channels * positions
        return self.layer(cell, self.byte * channels, self.byte * channels)

    def resnet(self, cell: Any, positions: int) -> LayerMemory:
        """Two times normalisation, SiLU and convolution; a further convolution where the channels change."""
        before, after = cell.norm1.num_channels * positions, cell.norm2.num_channels * positions
        kept = (self.norm_bytes + self.byte) * (before + after)
        if cell.conv_shortcut is not None and self.half:
            kept += self.byte * before
        return self.layer(cell, kept, 2 * FLOAT * max(before, after), self.byte * before)

    def attention(self, cell: Any, positions: int) -> LayerMemory:
        """A plain attention layer of a UNet2DModel, or a transformer of a UNet2DConditionModel."""
        if hasattr(cell, "transformer_blocks"):
            return self.transformer(cell, positions)
        channels = cell.group_norm.num_channels * positions
        kept = (self.norm_bytes + self.byte) * channels + self.fused_attention(cell, positions, positions)
        return self.layer(cell, kept, 2 * FLOAT * channels, self.byte * channels)

    def fused_attention(self, cell: Any, queries: int, keys: int) -> float:
        """Query, key, value and output in half precision, and the rows' sums."""
        width = cell.inner_dim
        return HALF * width * (2 * queries + 2 * keys) + ATTENTION_ROW_BYTES * cell.heads * queries

    def transformer(self, cell: Any, positions: int) -> LayerMemory:
        """Normalisation and projection, transformer blocks, projection. Attention and feed-forward are recomputed."""
        channels = cell.norm.num_channels * positions
        normalised, inner = (self.norm_bytes + self.byte) * channels, 0.0
        for block in cell.transformer_blocks:
            normalised += 3 * self.norm_bytes * channels
            inner += 2 * self.byte * channels  # what the attentions' last projections are given
            inner += self.fused_attention(block.attn1, positions, positions)
            inner += self.fused_attention(block.attn2, positions, self.text_tokens * self.batch_size)
            inner += 2 * self.byte * block.ff.net[0].proj.out_features * positions  # halves, GELU of one, product
        return self.layer(cell, normalised + inner, 2 * FLOAT * channels, normalised)

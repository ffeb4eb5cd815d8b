"""Residual blocks and attention layers of a UNet or a VAE as one operator in C++ each, and the gradient as two.

MindSpore's compiler takes some time for each function, condition, tuple, and cell that is named, and for each operator.
So what is known before is decided here, in properties of the cells, and what a graph compiles is a single call.

The parameters of the operators are listed in ``resnet_block.cpp`` and ``attention_block.cpp``. The first output is the
result; the others are for the gradient, or memory to work in. All is float32. The gradient of the weights is an
operator of its own, so that frozen weights cost nothing.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import mindspore as ms
from mindspore import mint, ops

from mindone_ddpm.backends import substitutes
from mindone_ddpm.backends.cpu import native

NOTHING = ms.Tensor([0.0], ms.float32)  # in the place of what a block does not have


def parameters_of(**paths: str) -> dict[str, Any]:
    """For layers, given by the path to each from a cell: properties of that cell, each layer's weights and bias.

    A graph that named the layer itself would compile it. Of a layer that is None they are :data:`NOTHING`.
    """

    def parameter(path, name):
        def value(cell):
            for part in path.split("."):
                cell = cell[int(part)] if part.isdecimal() else getattr(cell, part)
            return NOTHING if cell is None else getattr(cell, name)

        return property(value)

    return {f"{layer}_{name}": parameter(path, name) for layer, path in paths.items() for name in ("weight", "bias")}


def is_plain_convolution(convolution, size):
    """Whether a convolution is one that a block's operator has."""
    if type(convolution) is not mint.nn.Conv2d or convolution.native is None:
        return False
    found = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
    plain = ((size, size), (1, 1), (size // 2, size // 2), (1, 1))
    return found == plain and convolution.groups == 1 and convolution.bias is not None


def is_recomputed(cell):
    """Whether the backward pass is to compute a cell again. Layer by layer it can; of one operator all is an output."""
    return getattr(cell, "is_recomputed", False)


def _is_plain_linear(layer):
    return type(layer) is mint.nn.Linear and layer.bias is not None


def _are_alike(layers, norms):
    """Whether layers compute in one precision, and norms and layers have their weights in float32."""
    are_float32 = all(layer.weight.dtype == ms.float32 for layer in (*layers, *norms))
    return are_float32 and len({layer.in_bf16 for layer in layers}) == 1


# --- residual blocks ------------------------------------------------------------------------------------------------


@functools.cache
def resnet_block(has_embedding: bool, has_shortcut: bool, keeps: bool, suffix: str = "") -> ops.Custom:
    """mindone's ResnetBlock2D: convolutions of 3x3 behind norms with SiLU, and a shortcut.

    Args:
        has_embedding: the time's embedding is projected and added between the two halves.
        has_shortcut: the shortcut is a convolution of 1x1.
        keeps: what the gradient needs is kept. Without, there is one tensor to work in, and the gradient computes all
            again.
        suffix: :data:`native.BF16`, or nothing for products in float32.
    """
    variant = (has_embedding, has_shortcut, keeps)

    def sizes(x, bias1, embedding):
        """The result's shape; numbers of the input, of the result, and of what is kept beside such."""
        result = (x[0], bias1[0], *x[2:])
        small = x[0] * (2 * x[1] + 3 * bias1[0]) + (math.prod(embedding) if has_embedding else 0)
        return result, math.prod(x), math.prod(result), small

    def shapes(x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, *others):
        if w1[1] != x[1]:
            raise ValueError(f"a residual block for {w1[1]} channels was given {tuple(x)}")
        if has_embedding and tuple(embedding) != (x[0], others[0][1]):
            raise ValueError(f"a residual block for {tuple(x)} and width {others[0][1]} was given {tuple(embedding)}")
        result, size_in, size_out, small = sizes(x, c1, embedding)
        if not keeps:
            return result, (max(size_in, size_out) + small,)
        return result, (size_in + 2 * size_out + small,), result if has_shortcut else (1,)

    def input_shapes(x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, *others):
        result, size_in, size_out, _ = sizes(x, c1, embedding)
        values = result[:2] if has_embedding else (1,)
        return x, g1, b1, g2, b2, embedding, values, result, (max(size_in, size_out),)

    def weights_shapes(x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, w3, c3, w4, c4, *others):
        return w1, c1, w2, c2, w3, c3, w4, c4

    to_input = native.operator(f"resnet_block_to_input{suffix}", input_shapes, native.like_first(9), settings=variant)
    to_weights = native.operator(
        f"resnet_block_to_weights{suffix}", weights_shapes, native.like_first(8), settings=variant
    )

    def gradient(x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, w3, c3, w4, c4, settings, out, dout):
        kept, dresult = out[1], dout[0]
        if not keeps:
            kept = again(x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, w3, c3, w4, c4, settings)[1]
        dx, dg1, db1, dg2, db2, dembedding, dvalues, dmiddle, _ = to_input(
            x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, w3, c3, w4, c4, settings, kept, dresult
        )
        dw1, dc1, dw2, dc2, dw3, dc3, dw4, dc4 = to_weights(
            *(x, g1, b1, w1, c1, g2, b2, w2, c2, embedding, w3, c3, w4, c4, settings),
            *(kept, dresult, dvalues, dmiddle),
        )
        dsettings = ops.zeros_like(settings)
        return dx, dg1, db1, dw1, dc1, dg2, db2, dw2, dc2, dembedding, dw3, dc3, dw4, dc4, dsettings

    name = f"resnet_block{suffix}" if keeps else f"resnet_block_once{suffix}"
    operator = native.operator(name, shapes, native.like_first(3 if keeps else 2), gradient, variant)
    again = operator if keeps else resnet_block(has_embedding, has_shortcut, True, suffix)
    return operator


def activates_in_norm(block):
    """Whether a ResnetBlock2D's normalisations and their activations can be one operator."""
    plain = type(block.norm1) is type(block.norm2) is mint.nn.GroupNorm
    return plain and isinstance(block.nonlinearity, mint.nn.SiLU)


def resnet_block_of(block):
    """The operator of a ResnetBlock2D; None for a block with something unusual."""
    projection, shortcut, convolutions = block.time_emb_proj, block.conv_shortcut, (block.conv1, block.conv2)
    layers = [layer for layer in (*convolutions, projection, shortcut) if layer is not None]
    if (
        not activates_in_norm(block)
        or not all(is_plain_convolution(convolution, 3) for convolution in convolutions)
        or not (shortcut is None or is_plain_convolution(shortcut, 1))
        or not (projection is None or _is_plain_linear(projection))
        or not _are_alike(layers, (block.norm1, block.norm2))
        or block.upsample is not None
        or block.downsample is not None
        or block.conv2.weight.shape[:2] != (block.conv1.weight.shape[0],) * 2
        or (shortcut is None and block.conv1.weight.shape[0] != block.conv1.weight.shape[1])
        or is_recomputed(block)
        or block.skip_time_act
        or block.time_embedding_norm != "default"
        or (block.training and block.dropout.p > 0)
        or block.output_scale_factor != 1
    ):
        return None
    suffix = native.BF16 if block.conv1.in_bf16 else ""
    return resnet_block(projection is not None, shortcut is not None, block.training, suffix)


def resnet_block_settings(block: Any) -> list[float]:
    """The settings of a ResnetBlock2D's operator."""
    norms = (block.norm1.num_groups, block.norm1.eps, block.norm2.num_groups, block.norm2.eps)
    has = (block.time_emb_proj is not None, block.conv_shortcut is not None)
    return [*map(float, (*norms, *has))]


def _resnet_block_settings(block):
    return ms.Tensor(resnet_block_settings(block), ms.float32)


def _with_embedding(block, input, temb):
    if temb.shape[0] == 1 and input.shape[0] != 1:  # others that do not fit are the operator's error
        temb = ops.broadcast_to(temb, (input.shape[0], temb.shape[1]))
    return _of_parameters(block, input, temb)


def _without_embedding(block, input, temb):
    return _of_parameters(block, input, NOTHING)


def _of_parameters(block, input, temb):
    results = block.operator(
        input, block.norm1_weight, block.norm1_bias, block.conv1_weight, block.conv1_bias,
        block.norm2_weight, block.norm2_bias, block.conv2_weight, block.conv2_bias,
        temb, block.projection_weight, block.projection_bias, block.shortcut_weight, block.shortcut_bias,
        block.settings,
    )  # fmt: skip
    return results[0]


def _form(block):
    """The function that computes a ResnetBlock2D."""
    if block.operator is None:
        return substitutes.resnet_block_construct
    return _without_embedding if block.time_emb_proj is None else _with_embedding


def _resnet_block(block, input, temb):
    if input.dtype != ms.float32:
        return substitutes.resnet_block_construct(block, input, temb)
    return block.form(block, input, temb)


def resnet_block_construct(self, input_tensor, temb):
    return _resnet_block(self, input_tensor, temb)  # a graph would compile a property of `self`


# What a ResnetBlock2D becomes.
RESNET_BLOCK = {
    "construct": resnet_block_construct,
    "operator": property(resnet_block_of),
    "form": property(_form),
    "settings": property(_resnet_block_settings),
    **parameters_of(
        norm1="norm1", conv1="conv1", norm2="norm2", conv2="conv2", projection="time_emb_proj", shortcut="conv_shortcut"
    ),
}


# --- attention ------------------------------------------------------------------------------------------------------


@functools.cache
def attention_block(heads: int, suffix: str = "") -> ops.Custom:
    """mindone's Attention among the pixels of (n, c, h, w), behind a group norm, added to its input.

    Args:
        heads: how many.
        suffix: :data:`native.BF16`, or nothing for products in float32.
    """

    def sizes(x, wq):
        """The shapes of queries and of tokens."""
        length = x[2] * x[3]
        return (x[0], length, wq[0]), (x[0], length, x[1])

    def shapes(x, gamma, beta, wq, *others):
        if wq[1] != x[1]:
            raise ValueError(f"attention for {wq[1]} channels was given {tuple(x)}")
        queries, tokens = sizes(x, wq)
        kept = math.prod(tokens) + 4 * math.prod(queries) + x[0] * tokens[1] * heads + 2 * x[0] * x[1]
        return x, (kept,), (math.prod(x),)

    def input_shapes(x, gamma, beta, wq, *others):
        queries, tokens = sizes(x, wq)
        return x, gamma, beta, tokens, queries, queries, queries, (math.prod(queries),), (math.prod(x),)

    def weights_shapes(x, gamma, beta, wq, bq, wk, bk, wv, bv, wo, bo, *others):
        return wq, bq, wk, bk, wv, bv, wo, bo

    to_input = native.operator(
        f"attention_block_to_input{suffix}", input_shapes, native.like_first(9), settings=(heads,)
    )
    to_weights = native.operator(
        f"attention_block_to_weights{suffix}", weights_shapes, native.like_first(8), settings=(heads,)
    )

    def gradient(x, gamma, beta, wq, bq, wk, bk, wv, bv, wo, bo, settings, out, dout):
        dx, dgamma, dbeta, dlast, dq, dk, dv, _, _ = to_input(
            x, gamma, beta, wq, bq, wk, bk, wv, bv, wo, bo, settings, out[1], dout[0]
        )
        dwq, dbq, dwk, dbk, dwv, dbv, dwo, dbo = to_weights(
            x, gamma, beta, wq, bq, wk, bk, wv, bv, wo, bo, settings, out[1], dlast, dq, dk, dv
        )
        return dx, dgamma, dbeta, dwq, dbq, dwk, dbk, dwv, dbv, dwo, dbo, ops.zeros_like(settings)

    return native.operator(f"attention_block{suffix}", shapes, native.like_first(3), gradient, (heads,))


def attention_of(attn):
    """The operator of an Attention among pixels; None for one with something unusual."""
    layers = (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0])
    if (
        type(attn.group_norm) is not mint.nn.GroupNorm
        or not all(_is_plain_linear(layer) for layer in layers)
        or not _are_alike(layers, (attn.group_norm,))
        or attn.in_bf16 != attn.to_q.in_bf16
        or attn.spatial_norm is not None
        or attn.norm_q is not None
        or attn.norm_k is not None
        or not attn.residual_connection
        or attn.rescale_output_factor != 1
        or (attn.training and attn.to_out[1].p > 0)
        or len({layer.weight.shape for layer in layers[:3]}) > 1
        or attn.to_out[0].weight.shape != attn.to_q.weight.shape[::-1]
        or is_recomputed(attn)
        or attn.to_q.weight.shape[0] % attn.heads != 0
    ):
        return None
    return attention_block(attn.heads, native.BF16 if attn.in_bf16 else "")


def attention_settings(attn: Any) -> list[float]:
    """The settings of an Attention's operator."""
    return [*map(float, (attn.group_norm.num_groups, attn.group_norm.eps, attn.heads, attn.scale))]


def _attention_settings(attn):
    return ms.Tensor(attention_settings(attn), ms.float32)


def attention(attn, input):
    """An Attention that has an operator, on images."""
    results = attn.operator(
        input, attn.norm_weight, attn.norm_bias, attn.query_weight, attn.query_bias, attn.key_weight, attn.key_bias,
        attn.value_weight, attn.value_bias, attn.last_weight, attn.last_bias, attn.settings,
    )  # fmt: skip
    return results[0]


# What an Attention gets.
ATTENTION = {
    "operator": property(attention_of),
    "settings": property(_attention_settings),
    **parameters_of(norm="group_norm", query="to_q", key="to_k", value="to_v", last="to_out.0"),
}

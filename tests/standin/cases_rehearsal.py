"""Cases of the kernels that sampling, text to image and evaluation ask for."""

from __future__ import annotations

import math

import numpy as np
from cases import Draw, case
from cases_networks import _moments
from cases_shapes import ACLOPS
from direct import Flags, In, Ins, Ints, Number, Out, Outs, round_to


@case("aclnnRelu")
def _(draw):
    a = draw(3, 4)
    return [[In(a), Out(np.maximum(a, 0))]]


@case("aclnnErf")
def _(draw):
    a = draw(3, 4)
    return [[In(a), Out(np.vectorize(math.erf)(a))]]


@case("aclnnExpm1")
def _(draw):
    a = draw(3, 4)
    return [[In(a), Out(np.expm1(a))]]


def gelu(x, by_tanh):
    """The values and the slopes, by central differences of the definition."""

    def value(x):
        if by_tanh:
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))

    return value(x), (value(x + 1e-5) - value(x - 1e-5)) / 2e-5


@case("aclnnGelu")
def _(draw):
    a = draw(3, 4)
    return [[In(a), Out(gelu(a, True)[0])]]


@case("aclnnGeluV2")
def _(draw):
    a = draw(3, 4)
    return [[In(a), int(by_tanh), Out(gelu(a, by_tanh)[0])] for by_tanh in (False, True)]


@case("aclnnGeluBackward")
def _(draw):
    g, a = draw(3, 4), draw(3, 4)
    return [[In(g), In(a), Out(g * gelu(a, True)[1])]]


@case("aclnnGeluBackwardV2")
def _(draw):
    g, a = draw(3, 4), draw(3, 4)
    return [[In(g), In(a), kind, Out(g * gelu(a, kind == "tanh")[1])] for kind in ("none", "tanh")]


@case("aclnnMax")
def _(draw):
    a = draw(3, 4)
    return [[In(a), Out(a.max())]]


@case("aclnnMin")
def _(draw):
    a = draw(3, 4)
    return [[In(a), Out(a.min())]]


@case("aclnnLayerNormBackward")
def _(draw):
    g, x, w, b = draw(3, 2, 5), draw(3, 2, 5), draw(2, 5), draw(2, 5)
    mean, rstd = (round_to(m, draw.dtype) for m in _moments(x, (1, 2)))
    h = (x - mean) * rstd
    d = g * w
    grad_x = rstd * (d - (d.sum((1, 2), keepdims=True) + h * (d * h).sum((1, 2), keepdims=True)) / 10)
    outputs = [Out(grad_x), Out((g * h).sum(0)), Out(g.sum(0))]
    return [[In(g), In(x), Ints([2, 5]), In(mean), In(rstd), In(w), In(b), Flags([True] * 3), *outputs]]


@case("aclnnEmbeddingDenseBackward")
def _(draw):
    g, index = draw(2, 3, 4), np.array([[5, 0, 1], [2, 2, 3]])
    results = []
    for padding in (-1, 2):
        to = np.zeros((6, 4))
        np.add.at(to, index[index != padding], g[index != padding])
        results.append([In(g), In(index, "int64"), 6, padding, False, Out(to)])
    return results


@case("aclnnFlip")
def _(draw):
    a = draw(3, 4, 2)
    return [[In(a), Ints([0, -1]), Out(a[::-1, :, ::-1])]]


@case("aclnnSplitTensor")
def _(draw):
    a = draw(2, 7, 4)
    return [[In(a), 3, 1, Outs([a[:, :3], a[:, 3:6], a[:, 6:]])]]


@case("aclnnStack")
def _(draw):
    a, b = draw(3, 4), draw(3, 4)
    return [[Ins([a, b]), axis, Out(np.stack([a, b], axis))] for axis in (0, 1, -1)]


@case("aclnnIndex")
def _(draw):
    a, rows, columns = draw(3, 4, 2), np.array([2, 0, -1]), np.array([1, 3, 0])
    return [[In(a), Ins([rows, columns], "int64"), Out(a[rows, columns])], [In(a), Ins([rows], "int64"), Out(a[rows])]]


@case("aclnnInplaceMaskedFillTensor")
def _(draw):
    a, mask = draw(3, 4), draw.flags(4)
    return [[Out(np.where(mask, 0.5, a), start=a), In(mask, "bool"), In(np.array(0.5))]]


@case("aclnnInplaceMaskedFillScalar")
def _(draw):
    a, mask = draw(3, 4), draw.flags(3, 1)
    return [[Out(np.where(mask, 0.5, a), start=a), In(mask, "bool"), Number(0.5)]]


@case("aclnnInplaceNormal")
def _(draw):
    """Without deviation it is the mean; its numbers are its own."""
    return [[Out(np.zeros((3, 4)), start=draw(3, 4)), 0.0, 0.0, 5, 0]]


def _aclops():
    draw = Draw("float32")
    a, b, c = draw(3, 4), draw(3, 4), draw(6, 4)
    normed = (c - c.mean(1, keepdims=True)) / c.std(1, keepdims=True)
    whole = np.array([[-7, 2**31 - 1], [12, -1]])
    bits, shift = In(whole, "int32"), In(np.array(3), "int32")
    number = {value: In(np.array(value), "int64") for value in (1, 2, 3, 14)}
    return {
        "BitwiseAnd": [([bits, shift], [Out(whole & 3, "int32")], {}, False)],
        "BitwiseOr": [([bits, shift], [Out(whole | 3, "int32")], {}, False)],
        "BitwiseXor": [([bits, shift], [Out(whole ^ 3, "int32")], {}, False)],
        "RightShift": [([bits, shift], [Out(whole >> 3, "int32")], {}, False)],
        "LeftShift": [([shift, shift], [Out(np.array(24), "int32")], {}, False)],
        "ArgMaxV2": [([In(c), number[1]], [Out(c.argmax(1), "int64")], {}, False)],
        "BiasAdd": [
            ([In(c), In(b[0])], [Out(c + b[0])], {}, False),
            ([In(c.reshape(2, 4, 3)), In(b[0])], [Out(c.reshape(2, 4, 3) + b[0][:, None])], {}, False),
        ],
        "SqrtGrad": [([In(abs(a) + 1), In(b)], [Out(b / 2 / (abs(a) + 1))], {}, False)],
        "Pad": [
            ([In(a), In(np.array([[1, 0], [2, 1]]), "int64")], [Out(np.pad(a, ((1, 0), (2, 1))))], {}, False),
        ],
        "GatherNd": [
            ([In(c), In(np.array([[5, 1], [0, 3]]), "int64")], [Out(c[[5, 0], [1, 3]])], {}, False),
            ([In(c), In(np.array([[5], [0]]), "int64")], [Out(c[[5, 0]])], {}, False),
        ],
        "StridedSliceGrad": [
            (
                [In(np.array(one), "int64") for one in ([6, 4], [1, 0], [5, 4], [2, 1])] + [In(c[1:5:2])],
                [Out(np.where(np.isin(np.arange(6), (1, 3))[:, None], c, 0))],
                {},
                False,
            )
        ],
        "Identity": [([In(c)], [Out(c)], {}, False)],
        "Fill": [([In(np.array([2, 3]), "int64"), In(np.array(0.5))], [Out(np.full((2, 3), 0.5))], {}, False)],
        "LayerNorm": [
            (
                [In(c), In(b[0]), In(a[0])],
                [Out(normed * b[0] + a[0]), Out(c.mean(1, keepdims=True)), Out(c.var(1, keepdims=True))],
                {"begin_norm_axis": -1},
                False,
            )
        ],
        "Range": [([number[2], number[14], number[3]], [Out(np.arange(2, 14, 3), "int64")], {}, False)],
    }


ACLOPS.update(_aclops())

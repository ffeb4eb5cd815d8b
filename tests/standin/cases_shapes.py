"""Calls of the kernels with what NumPy says they give: shapes, indices, and operators by name."""

from __future__ import annotations

import numpy as np
from cases import Draw, case
from direct import In, Ins, Ints, Number, Out, Outs


# ---- shapes ----
@case("aclnnPermute")
def _(draw):
    a = draw(2, 3, 4)
    return [[In(a), Ints([2, 0, -2]), Out(a.transpose(2, 0, 1))]]


@case("aclnnExpand")
def _(draw):
    a = draw(3, 1)
    return [[In(a), Ints([2, 3, 4]), Out(np.broadcast_to(a, (2, 3, 4)))]]


@case("aclnnRepeat")
def _(draw):
    a = draw(2, 3)
    return [[In(a), Ints([2, 1, 3]), Out(np.tile(a, (2, 1, 3)))]]


@case("aclnnCat")
def _(draw):
    parts = [draw(2, 3, 4), draw(2, 1, 4), draw(2, 2, 4)]
    return [[Ins(parts), -2, Out(np.concatenate(parts, 1))]]


@case("aclnnSplitWithSize")
def _(draw):
    a = draw(2, 6, 4)
    return [[In(a), Ints([3, 1, 2]), 1, Outs([a[:, :3], a[:, 3:4], a[:, 4:]])]]


@case("aclnnSlice")
def _(draw):
    a = draw(3, 9)
    return [[In(a), 1, 2, 8, 3, Out(a[:, 2:8:3])], [In(a), -2, -2, 3, 1, Out(a[1:3])]]


@case("aclnnConstantPadNd")
def _(draw):
    a = draw(2, 3, 4)
    return [[In(a), Ints([1, 2, 0, 1]), Number(0.5), Out(np.pad(a, ((0, 0), (0, 1), (1, 2)), constant_values=0.5))]]


@case("aclnnUpsampleNearest2d")
def _(draw):
    a = draw(2, 3, 4, 5)
    uneven = a[:, :, np.arange(6) * 4 // 6][..., np.arange(7) * 5 // 7]
    return [[In(a), Ints([8, 10]), Out(a.repeat(2, 2).repeat(2, 3))], [In(a), Ints([6, 7]), Out(uneven)]]


@case("aclnnUpsampleNearest2dBackward")
def _(draw):
    g = draw(2, 3, 8, 10)
    grad = g.reshape(2, 3, 4, 2, 5, 2).sum((3, 5))
    return [[In(g), Ints([8, 10]), Ints([2, 3, 4, 5]), 2.0, 2.0, Out(grad)]]


@case("aclnnIndexSelect")
def _(draw):
    a, index = draw(3, 5, 2), np.array([4, 0, 0])
    return [[In(a), -2, In(index, "int64"), Out(a[:, index])], [In(a), 0, In(np.array([2]), "int32"), Out(a[[2]])]]


@case("aclnnEmbedding")
def _(draw):
    table, index = draw(6, 4), np.array([[5, 0, 1], [2, 2, 3]])
    return [[In(table), In(index, dtype), Out(table[index])] for dtype in ("int32", "int64")]


@case("aclnnGather")
def _(draw):
    a, index = draw(3, 5), np.array([[4, 0], [1, 1], [2, 3]])
    return [[In(a), 1, In(index, "int64"), Out(np.take_along_axis(a, index, 1))]]


@case("aclnnNonzero")
def _(draw):
    a = draw(3, 4) * draw.flags(3, 4)
    found = np.argwhere(a)
    return [[In(a), Out(np.concatenate([found, np.full((12 - len(found), 2), 55)]), "int64")]]


@case("aclnnArange")
def _(draw):
    return [
        [Number(2), Number(5), Number(0.5), Out(np.arange(2, 5, 0.5))],
        [Number(0), Number(7), Number(1), Out(np.arange(7), "int64")],
    ]


@case("aclnnLinspace")
def _(draw):
    return [[Number(-1), Number(1), 5, Out(np.linspace(-1, 1, 5))], [Number(3), Number(4), 1, Out(np.array([3]))]]


# ---- operators by name ----
def _aclops() -> dict[str, list[tuple[list[In], list[Out], dict[str, int], bool]]]:
    """Of each: inputs, outputs, attributes, and whether the first input is written as well."""
    draw = Draw("float32")
    a, b, c = draw(3, 4), draw(3, 4), draw(6, 4)
    axis = In(np.array([0]), "int32")
    one = In(np.array(1), "int32")
    return {
        "Assign": [([In(a), In(b)], [Out(b)], {}, True)],
        "AssignAdd": [([In(a), In(b)], [Out(a + b)], {}, True)],
        "AssignSub": [([In(a), In(b)], [Out(a - b)], {}, True)],
        "AddN": [([In(a), In(b), In(a)], [Out(2 * a + b)], {}, False)],
        "ApplyAdamD": [_adam(draw)],
        "Unpack": [([In(a)], [Out(row) for row in a], {"axis": 0, "num": 3}, False)],
        "Pack": [([In(a), In(b)], [Out(np.stack([a, b], 1))], {"axis": 1, "N": 2}, False)],
        "RealDiv": [([In(a), In(b)], [Out(a / b)], {}, False)],
        "TensorMove": [([In(a)], [Out(a)], {}, False)],
        "ZerosLike": [([In(a)], [Out(0 * a)], {}, False)],
        "OnesLike": [([In(a)], [Out(0 * a + 1)], {}, False)],
        "ReduceSum": [([In(a), one], [Out(a.sum(1))], {"keep_dims": 0}, False)],
        "ReduceMean": [([In(a), axis], [Out(a.mean(0))], {}, False)],
        "Cumprod": [([In(a[0]), axis], [Out(a[0].cumprod())], {}, False)],
        "Split": [([axis, In(c)], [Out(c[:3]), Out(c[3:])], {"num_split": 2}, False)],
        "Slice": [
            ([In(c), In(np.array([1, 2]), "int64"), In(np.array([4, 2]), "int64")], [Out(c[1:5, 2:4])], {}, False)
        ],
        "GatherV2": [
            (
                [In(c), In(np.array([[5, 0], [1, 1]]), "int32"), In(np.array(-1 + 1), "int64")],
                [Out(c[[[5, 0], [1, 1]]])],
                {},
                False,
            )
        ],
        "StridedSlice": [
            _strided(c, [1, 0], [5, 4], [2, 1], c[1:5:2], {}),
            _strided(c, [4, 0], [0, 4], [-1, 1], c[4:0:-1], {}),
            _strided(c, [2, 0], [3, 0], [1, 1], c[2, :], {"shrink_axis_mask": 1, "begin_mask": 2, "end_mask": 2}),
            _strided(c, [0, 0, 1], [0, 0, 3], [1, 1, 1], c[None, ..., 1:3], {"new_axis_mask": 1, "ellipsis_mask": 2}),
            _strided(c, [-2, 0], [0, -1], [1, 1], c[-2:, :-1], {"end_mask": 1}),
        ],
    }


def _adam(draw):
    """Kingma & Ba 2015, algorithm 1, with the bias corrections in the rate."""
    weights, moment1, gradient = draw(5), draw(5), draw(5)
    moment2, numbers = np.square(draw(5)), [0.5, 0.75, 0.25, 0.875, 0.5, 0.125]
    power1, power2, rate, beta1, beta2, epsilon = numbers
    new1 = beta1 * moment1 + (1 - beta1) * gradient
    new2 = beta2 * moment2 + (1 - beta2) * np.square(gradient)
    new = weights - rate * np.sqrt(1 - power2) / (1 - power1) * new1 / (np.sqrt(new2) + epsilon)
    inputs = [In(weights), In(moment1), In(moment2), *(In(np.array(number)) for number in numbers), In(gradient)]
    return inputs, [Out(new), Out(new1), Out(new2)], {"use_nesterov": 0}, True


def _strided(x, begin, end, strides, expected, masks):
    return ([In(x), *(In(np.array(one), "int64") for one in (begin, end, strides))], [Out(expected)], masks, False)


ACLOPS = _aclops()

"""Every kernel of the stand-in against NumPy: in every floating-point type that it takes, dense and as views."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from direct import LAYOUTS, Argument, Flags, In, Ins, Ints, Library, Number, Out, Outs, round_to
from limits import LIMITS

TOLERANCES = {"float64": 1e-5, "float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}  # of the largest value


class Draw:
    """Random tensors with values that the tested type can hold."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._rng = np.random.default_rng(7)

    def __call__(self, *shape: int) -> np.ndarray:
        return round_to(self._rng.normal(size=shape), self.dtype)

    def positive(self, *shape: int) -> np.ndarray:
        return round_to(0.2 + self._rng.random(shape), self.dtype)

    def flags(self, *shape: int) -> np.ndarray:
        return self._rng.integers(0, 2, shape)


Case = Callable[[Draw], list[list[Argument]]]
CASES: dict[str, Case] = {}


def case(*names: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        CASES.update(dict.fromkeys(names, function))
        return function

    return keep


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---- elementwise ----
BINARY = {
    "aclnnMul": np.multiply,
    "aclnnDiv": np.divide,
    "aclnnMinimum": np.minimum,
    "aclnnMaximum": np.maximum,
    "aclnnLogicalAnd": np.logical_and,
    "aclnnLogicalOr": np.logical_or,
    "aclnnLtTensor": np.less,
    "aclnnLeTensor": np.less_equal,
    "aclnnGtTensor": np.greater,
    "aclnnGeTensor": np.greater_equal,
    "aclnnEqTensor": np.equal,
    "aclnnNeTensor": np.not_equal,
}
UNARY = {
    "aclnnSqrt": np.sqrt,
    "aclnnRsqrt": lambda x: 1 / np.sqrt(x),
    "aclnnReciprocal": lambda x: 1 / x,
    "aclnnLog": np.log,
    "aclnnSin": np.sin,
    "aclnnCos": np.cos,
    "aclnnExp": np.exp,
    "aclnnTanh": np.tanh,
    "aclnnSigmoid": sigmoid,
    "aclnnSilu": lambda x: x * sigmoid(x),
    "aclnnAbs": np.abs,
    "aclnnNeg": np.negative,
    "aclnnSign": np.sign,
}
POSITIVE = {"aclnnSqrt", "aclnnRsqrt", "aclnnReciprocal", "aclnnLog"}


def _binary(name: str, function) -> Case:
    compares = "Logical" in name or name.endswith("Tensor")

    def make(draw: Draw) -> list[list[Argument]]:
        pairs = [
            (draw(3, 4), draw.positive(3, 4)),
            (draw(2, 3, 4), draw.positive(3, 1)),
            (draw(4), draw.positive(2, 1, 4)),
        ]
        pairs[0][0][0, :2] = pairs[0][1][0, :2]  # equal elements, for comparisons
        return [[In(a), In(b), Out(function(a, b), "bool" if compares else "")] for a, b in pairs]

    return make


def _unary(name: str, function) -> Case:
    def make(draw: Draw) -> list[list[Argument]]:
        inputs = (
            [draw.positive(3, 5), draw.positive(2, 1, 3), draw.positive()]
            if name in POSITIVE
            else [draw(3, 5), draw(2, 1, 3), draw()]
        )
        return [[In(x), Out(np.asarray(function(x)))] for x in inputs]

    return make


CASES.update({name: _binary(name, function) for name, function in BINARY.items()})
CASES.update({name: _unary(name, function) for name, function in UNARY.items()})


def _with_alpha(sign: int, scalar: bool) -> Case:
    def make(draw: Draw) -> list[list[Argument]]:
        a, b = draw(2, 3, 4), draw(3, 1)
        if scalar:
            return [[In(a), Number(0.75), Number(2), Out(a + sign * 1.5)]]
        return [[In(a), In(b), Number(0.5), Out(a + sign * 0.5 * b)]]

    return make


for _name, _sign in {"Add": 1, "Sub": -1}.items():
    CASES[f"aclnn{_name}"] = _with_alpha(_sign, scalar=False)
    CASES[f"aclnn{_name}s"] = _with_alpha(_sign, scalar=True)
for _name in ("Lt", "Le", "Gt", "Ge", "Eq", "Ne"):
    CASES[f"aclnn{_name}Scalar"] = lambda draw, compare=BINARY[f"aclnn{_name}Tensor"]: [
        [In(a), Number(a.flat[0]), Out(compare(a, a.flat[0]), "bool")] for a in [draw(3, 4)]
    ]
CASES["aclnnMuls"] = lambda draw: [[In(a), Number(0.3), Out(a * 0.3)] for a in [draw(3, 4)]]
CASES["aclnnDivs"] = lambda draw: [[In(a), Number(0.3), Out(a / 0.3)] for a in [draw(3, 4)]]


@case("aclnnPowTensorScalar")
def _(draw):
    a, b = draw.positive(3, 4), draw(3, 4)
    return [[In(a), Number(2.5), Out(a**2.5)], [In(b), Number(2, "int64"), Out(b**2)]]


@case("aclnnPowTensorTensor")
def _(draw):
    a, b = draw.positive(3, 4), draw(4)
    return [[In(a), In(b), Out(a**b)]]


@case("aclnnInplaceMul")
def _(draw):
    a, b = draw(3, 4), draw(3, 1)
    return [[Out(a * b, start=a), In(b)]]


@case("aclnnInplaceAdd")
def _(draw):
    a, b = draw(3, 4), draw(4)
    return [[Out(a + 0.5 * b, start=a), In(b), Number(0.5)]]


@case("aclnnInplaceCopy")
def _(draw):
    b = draw(3, 1)
    return [[Out(np.tile(b, (2, 1, 4))), In(b)]]


CASES["aclnnInplaceZero"] = lambda draw: [[Out(np.zeros((3, 4)))]]
CASES["aclnnInplaceOne"] = lambda draw: [[Out(np.ones((3, 4)))]]
CASES["aclnnInplaceFillScalar"] = lambda draw: [[Out(np.full((3, 4), 0.25)), Number(0.25)]]


@case("aclnnLogicalNot")
def _(draw):
    a = draw(3, 4) * draw.flags(3, 4)
    return [[In(a), Out(a == 0, "bool")]]


@case("aclnnIsFinite")
def _(draw):
    a = draw(3, 4)
    a[0, 0], a[1, 1], a[2, 2] = np.inf, -np.inf, np.nan
    return [[In(a), Out(np.isfinite(a), "bool")]]


@case("aclnnAllFinite")
def _(draw):
    finite, infinite = draw(3, 4), draw(3, 4)
    infinite[2, 1] = np.nan
    return [
        [In(x), Out(np.array([after]), "bool", start=np.array([before]))]
        for x, before, after in [(finite, 0, 0), (finite, 1, 1), (infinite, 0, 1)]
    ]


@case("aclnnSiluBackward")
def _(draw):
    g, x = draw(3, 4), draw(3, 4)
    s = sigmoid(x)
    return [[In(g), In(x), Out(g * (s + x * s * (1 - s)))]]


@case("aclnnCast")
def _(draw):
    a = draw(3, 4)
    large = np.array([2**40 + 1, -3])
    return [
        *([In(a), 0, Out(round_to(a, to), to)] for to in ("float32", "float16", "bfloat16", "float64")),
        [In(a * 10), 0, Out(np.trunc(round_to(a * 10, draw.dtype)), "int32")],
        [In(a), 0, Out(a != 0, "bool")],
        [In(large, "int64"), 0, Out(large, "int64")],
    ]


@case("aclnnSWhere")
def _(draw):
    c, a, b = draw.flags(3, 1), draw(3, 4), draw(4)
    return [[In(c, "bool"), In(a), In(b), Out(np.where(c, a, b))]]


@case("aclnnClamp")
def _(draw):
    a = draw(3, 4)
    return [
        [In(a), Number(-0.5), Number(0.25), Out(a.clip(-0.5, 0.25))],
        [In(a), None, Number(0.25), Out(a.clip(None, 0.25))],
        [In(a), Number(-0.5), None, Out(a.clip(-0.5, None))],
    ]


# ---- reductions ----
@case("aclnnReduceSum")
def _(draw):
    a = draw(3, 4, 5)
    return [
        [In(a), Ints([1]), False, 0, Out(a.sum(1))],
        [In(a), Ints([0, -1]), True, 0, Out(a.sum((0, 2), keepdims=True))],
        [In(a), Ints([]), False, 0, Out(np.asarray(a.sum()))],
    ]


@case("aclnnMean")
def _(draw):
    a = draw(3, 4, 5)
    return [
        [In(a), Ints([0, 2]), False, 0, Out(a.mean((0, 2)))],
        [In(a), Ints([]), False, 0, Out(np.asarray(a.mean()))],
    ]


@case("aclnnAll")
def _(draw):
    a = draw(3, 4)
    a[1, 2] = 0
    return [[In(a), Ints([1]), False, Out(a.all(1), "bool")]]


@case("aclnnAny")
def _(draw):
    a = draw(3, 4)
    a[1] = 0
    return [[In(a), Ints([1]), False, Out(a.any(1), "bool")]]


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@case("aclnnSoftmax")
def _(draw):
    a = draw(3, 4, 5)
    return [[In(a), axis, Out(softmax(a, axis))] for axis in (1, -1)]


@case("aclnnSoftmaxBackward")
def _(draw):
    g, y = draw(3, 4, 5), round_to(softmax(draw(3, 4, 5), 1), draw.dtype)
    return [[In(g), In(y), 1, Out(y * (g - (g * y).sum(1, keepdims=True)))]]


@case("aclnnMseLoss")
def _(draw):
    a, b = draw(3, 4), draw(4)
    e = (a - b) ** 2
    return [
        [In(a), In(b), 0, Out(e)],
        [In(a), In(b), 1, Out(np.asarray(e.mean()))],
        [In(a), In(b), 2, Out(np.asarray(e.sum()))],
    ]


# ---- normalisation ----
def _moments(x, axes):
    mean = x.mean(axes, keepdims=True)
    return mean, 1 / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@case("aclnnGroupNorm")
def _(draw):
    x, w, b = draw(2, 6, 4, 3), draw(6), draw(6)
    grouped = x.reshape(2, 3, 2, 4, 3)
    mean, rstd = _moments(grouped, (2, 3, 4))
    y = ((grouped - mean) * rstd).reshape(x.shape)
    statistics = [Out(mean.reshape(2, 3)), Out(rstd.reshape(2, 3))]
    sizes = [2, 6, 12, 3, 1e-5]
    affine = y * w[:, None, None] + b[:, None, None]
    return [[In(x), In(w), In(b), *sizes, Out(affine), *statistics], [In(x), None, None, *sizes, Out(y), *statistics]]


@case("aclnnGroupNormBackward")
def _(draw):
    g, x, w = draw(2, 6, 4, 3), draw(2, 6, 4, 3), draw(6)
    grouped = x.reshape(2, 3, 2, 4, 3)
    mean, rstd = (round_to(m, draw.dtype) for m in _moments(grouped, (2, 3, 4)))
    h = ((grouped - mean) * rstd).reshape(x.shape)
    d = (g * w[:, None, None]).reshape(grouped.shape)
    normed = h.reshape(grouped.shape)
    sums = d.sum((2, 3, 4), keepdims=True) + normed * (d * normed).sum((2, 3, 4), keepdims=True)
    grad_x = (rstd * (d - sums / 24)).reshape(x.shape)
    statistics = [In(mean.reshape(2, 3)), In(rstd.reshape(2, 3))]
    outputs = [Out(grad_x), Out((g * h).sum((0, 2, 3))), Out(g.sum((0, 2, 3)))]
    return [[In(g), In(x), *statistics, In(w), 2, 6, 12, 3, Flags([True] * 3), *outputs]]


@case("aclnnLayerNorm")
def _(draw):
    x, w, b = draw(3, 2, 5), draw(2, 5), draw(2, 5)
    mean, rstd = _moments(x, (1, 2))
    y = (x - mean) * rstd
    statistics = [Out(mean), Out(rstd)]
    return [
        [In(x), Ints([2, 5]), In(w), In(b), 1e-5, Out(y * w + b), *statistics],
        [In(x), Ints([2, 5]), None, None, 1e-5, Out(y), None, None],
    ]


# ---- matrix products ----
CASES["aclnnMm"] = lambda draw: [
    [In(a), In(b), Out(a @ b), 0] for a, b in [(draw(5, 7), draw(7, 19)), (draw(9, 3), draw(3, 33))]
]
CASES["aclnnBatchMatMul"] = lambda draw: [[In(a), In(b), Out(a @ b), 0] for a, b in [(draw(3, 5, 7), draw(3, 7, 18))]]


@case("aclnnMatmul")
def _(draw):
    pairs = [
        (draw(2, 1, 5, 7), draw(3, 7, 4)),
        (draw(7), draw(7, 4)),
        (draw(5, 7), draw(7)),
        (draw(7), draw(7)),
        (draw(2, 5, 7), draw(7, 4)),
    ]
    return [[In(a), In(b), Out(np.asarray(a @ b)), 0] for a, b in pairs]


@case("aclnnAddmm")
def _(draw):
    s, a, b = draw(4), draw(5, 7), draw(7, 4)
    return [[In(s), In(a), In(b), Number(0.5), Number(2), Out(0.5 * s + 2 * a @ b), 0]]


# ---- convolution ----
def windows(x, kernel, stride, padding, dilation):
    """The input pixels that each output pixel sees: (n, channels, kernel_h, kernel_w, out_h, out_w)."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    return seen[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]].transpose(0, 1, 4, 5, 2, 3)


# Input, weight, stride, padding, dilation, groups.
CONVOLUTIONS = [
    ((2, 3, 7, 6), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 4, 9, 8), (6, 2, 3, 2), (2, 1), (1, 0), (1, 2), 2),
    ((1, 4, 5, 5), (3, 4, 1, 1), (1, 1), (0, 0), (1, 1), 1),
]


def convolve(x, w, stride, padding, dilation, groups):
    seen = windows(x, w.shape[2:], stride, padding, dilation)
    parts = [
        np.einsum("nckluv,fckl->nfuv", one, kernel)
        for one, kernel in zip(np.split(seen, groups, 1), np.split(w, groups, 0), strict=True)
    ]
    return np.concatenate(parts, 1)


@case("aclnnConvolution")
def _(draw):
    calls = []
    for x_shape, w_shape, stride, padding, dilation, groups in CONVOLUTIONS:
        x, w, b = draw(*x_shape), draw(*w_shape), draw(w_shape[0])
        y = convolve(x, w, stride, padding, dilation, groups)
        settings = [Ints(stride), Ints(padding), Ints(dilation), False, Ints([0, 0]), groups]
        calls.append([In(x), In(w), In(b), *settings, Out(y + b[:, None, None]), 0])
        calls.append([In(x), In(w), None, *settings, Out(y), 0])
    return calls


def _adjoint(like, g, apply):
    """The gradient of sum(g * apply(like)), where apply is linear: its product with the output of each unit."""
    units = np.eye(like.size).reshape(-1, *like.shape)
    return np.array([(apply(unit) * g).sum() for unit in units]).reshape(like.shape)


@case("aclnnConvolutionBackward")
def _(draw):
    calls = []
    for x_shape, w_shape, stride, padding, dilation, groups in CONVOLUTIONS:
        x, w = draw(*x_shape), draw(*w_shape)
        settings = (stride, padding, dilation, groups)
        g = draw(*convolve(x, w, *settings).shape)
        gradients = [
            _adjoint(x, g, lambda unit, w=w, settings=settings: convolve(unit, w, *settings)),
            _adjoint(w, g, lambda unit, x=x, settings=settings: convolve(x, unit, *settings)),
        ]
        arguments = [Ints([w_shape[0]]), Ints(stride), Ints(padding), Ints(dilation), False, Ints([0, 0]), groups]
        outputs = [Out(gradients[0]), Out(gradients[1]), Out(g.sum((0, 2, 3)))]
        calls.append([In(g), In(x), In(w), *arguments, Flags([True] * 3), 0, *outputs])
        calls.append([In(g), In(x), In(w), *arguments, Flags([False, True, False]), 0, None, outputs[1], None])
    return calls


# ---- attention ----
def _in_layout(x, layout):
    """From (batch, heads, length, size)."""
    n, heads, length, size = x.shape
    if layout == "BNSD":
        return x
    if layout == "BSND":
        return x.transpose(0, 2, 1, 3)
    flat = x.transpose(0, 2, 1, 3).reshape(n, length, heads * size)
    return flat if layout == "BSH" else flat.transpose(1, 0, 2)


def _attention(q, k, v, scale, mask):
    shared = q.shape[1] // k.shape[1]
    scores = scale * q @ np.repeat(k, shared, 1).transpose(0, 1, 3, 2)
    scores = np.where(mask, -np.inf, scores)
    largest = scores.max(-1, keepdims=True)
    p = np.exp(scores - largest)
    total = p.sum(-1, keepdims=True)
    return p / total, p / total @ np.repeat(v, shared, 1), largest, total


# Layout, heads of the query and of the key, masked, lengths.
ATTENTIONS = [
    ("BNSD", 2, 2, True, 70, 9),
    ("BSND", 4, 2, False, 5, 6),
    ("BSH", 2, 1, True, 5, 6),
    ("SBH", 2, 2, False, 5, 6),
]


@case("aclnnFlashAttentionScore")
def _(draw):
    calls = []
    for layout, heads, key_heads, masked, length, key_length in ATTENTIONS:
        q, k, v = draw(2, heads, length, 8), draw(2, key_heads, key_length, 8), draw(2, key_heads, key_length, 8)
        mask = draw.flags(length, key_length) * (np.arange(key_length) > 0) if masked else np.zeros((1, 1))
        _, o, largest, total = _attention(q, k, v, 0.3, mask)
        inputs = [In(_in_layout(x, layout)) for x in (q, k, v)]
        given = [None, None, None, In(mask, "bool") if masked else None, None]
        numbers = [0.3, 1.0, 2**31 - 1, 2**31 - 1, heads, layout, 0, 0]
        statistics = [Out(np.repeat(x, 8, -1), "float32") for x in (largest, total)]
        calls.append([*inputs, *given, *numbers, *statistics, None, Out(_in_layout(o, layout))])
    return calls


@case("aclnnFlashAttentionScoreGrad")
def _(draw):
    calls = []
    for layout, heads, key_heads, masked, length, key_length in ATTENTIONS:
        q, k, v = draw(2, heads, length, 8), draw(2, key_heads, key_length, 8), draw(2, key_heads, key_length, 8)
        g, shared = draw(2, heads, length, 8), heads // key_heads
        mask = draw.flags(length, key_length) * (np.arange(key_length) > 0) if masked else np.zeros((1, 1))
        p, o, largest, total = _attention(q, k, v, 0.3, mask)
        dp = g @ np.repeat(v, shared, 1).transpose(0, 1, 3, 2)
        ds = 0.3 * p * (dp - (p * dp).sum(-1, keepdims=True))
        by_key = [
            x.reshape(2, key_heads, shared, key_length, 8).sum(2) for x in (ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ g)
        ]
        inputs = [In(_in_layout(x, layout)) for x in (q, k, v, g)]
        given = [None, None, None, In(mask, "bool") if masked else None]
        statistics = [In(np.repeat(x, 8, -1), "float32") for x in (largest, total)]
        numbers = [0.3, 1.0, 2**31 - 1, 2**31 - 1, heads, layout, 0, 0]
        outputs = [Out(_in_layout(x, layout)) for x in (ds @ np.repeat(k, shared, 1), *by_key)]
        attended = In(_in_layout(round_to(o, draw.dtype), layout))
        calls.append([*inputs, *given, *statistics, None, attended, None, *numbers, *outputs, None])
    return calls


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


# ---- the tests ----
@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


def floating_types(name: str) -> list[str]:
    """What a kernel's typed tensors all take. Rotary numbers and indices have types of their own."""
    typed = [set(types.split()) & set(TOLERANCES) for types in LIMITS[name].tensors.values()]
    return sorted(set.intersection(*filter(None, typed)) - ({"float64"} if name in COMPUTED_IN_FLOAT else set()))


COMPUTED_IN_FLOAT = {"aclnnFlashAttentionScore", "aclnnFlashAttentionScoreGrad"}


def compare(call: list, outputs: list, dtype: str) -> None:
    expected = [one for argument in call for one in ([argument] if isinstance(argument, Out) else [])]
    expected += [Out(values) for argument in call if isinstance(argument, Outs) for values in argument.values]
    assert len(expected) == len(outputs)
    for output, want in zip(outputs, expected, strict=True):
        values = np.asarray(want.values, dtype=np.float64)
        tolerance = TOLERANCES[dtype] * max(
            1.0, np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0)
        )
        np.testing.assert_allclose(output.read(), values, rtol=0, atol=tolerance)
        assert output.gaps_are_untouched()


@pytest.mark.parametrize("name", sorted(CASES))
def test_values_in_every_type_and_layout(library, name):
    for dtype in floating_types(name):
        calls = CASES[name](Draw(dtype))
        for layout in LAYOUTS:
            for call in calls:
                compare(call, library.run(name, call, dtype, layout), dtype)


def test_every_kernel_has_a_test_and_limits(library):
    assert set(library.kernels()) == {*CASES, *ACLOPS}
    assert set(LIMITS) == set(library.kernels())


@pytest.mark.parametrize("name", ["aclnnAdd", "aclnnMul", "aclnnSub", "aclnnMaximum", "aclnnMinimum"])
def test_integers_are_exact(library, name):
    a, b = np.array([2**40 + 1, -5, 7]), np.array([3, 2**33, -2])
    function = {"aclnnAdd": np.add, "aclnnSub": np.subtract, **BINARY}[name]
    alpha = [Number(1, "int64")] if name in ("aclnnAdd", "aclnnSub") else []
    (output,) = library.run(name, [In(a), In(b), *alpha, Out(function(a, b))], "int64")
    np.testing.assert_array_equal(output.view, function(a, b))


def test_promotes_an_integer_tensor_and_a_float(library):
    a, b = np.array([1, 2, 3]), np.array([0.5, 0.25, 2])
    (output,) = library.run("aclnnMul", [In(a, "int32"), In(b), Out(a * b)])
    np.testing.assert_array_equal(output.read(), a * b)


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


def _strided(x, begin, end, strides, expected, masks):
    return ([In(x), *(In(np.array(one), "int64") for one in (begin, end, strides))], [Out(expected)], masks, False)


ACLOPS = _aclops()


@pytest.mark.parametrize("name", sorted(ACLOPS))
def test_values_of_operators_by_name(library, name):
    for inputs, outputs, attributes, written in ACLOPS[name]:
        results = library.run_aclop(name, inputs, outputs, **attributes)
        for result, expected in zip(results, outputs, strict=False):
            np.testing.assert_allclose(result.read(), expected.values, rtol=1e-6, atol=1e-6)
        if written:
            np.testing.assert_allclose(results[len(outputs)].read(), outputs[0].values, rtol=1e-6, atol=1e-6)


def test_operators_by_name_in_half_precision(library):
    a = Draw("float16")(3, 4)
    for dtype in ("float16", "bfloat16"):
        (result, *_) = library.run_aclop("AddN", [In(a), In(a)], [Out(2 * a)], dtype)
        np.testing.assert_allclose(result.read(), 2 * a, atol=TOLERANCES[dtype] * 4)

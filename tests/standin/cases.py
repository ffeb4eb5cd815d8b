"""Calls of the kernels with what NumPy says they give: elementwise operators and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from direct import Argument, In, Ints, Number, Out, round_to


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


@case("aclnnLerp")
def _(draw):
    a, b, share = draw(3, 4), draw(3, 4), draw()
    return [[In(a), In(b), In(share), Out(a + share * (b - a))]]


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


@case("aclnnSigmoidBackward")
def _(draw):
    g, y = draw(3, 4), sigmoid(draw(3, 4))
    return [[In(g), In(y), Out(g * y * (1 - y))]]


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


@case("aclnnLinalgVectorNorm")
def _(draw):
    a = draw(3, 4, 5)
    return [
        [In(a), Number(2.0), Ints([1]), False, 0, Out(np.linalg.norm(a, axis=1))],
        [In(a), Number(2.0), Ints([]), False, 0, Out(np.linalg.norm(a.reshape(-1)))],
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

"""Every kernel of the stand-in against NumPy: in every floating-point type that it takes, dense and as views."""

from __future__ import annotations

import cases_networks  # noqa: F401  adds its cases
import cases_rehearsal  # noqa: F401  adds its cases
import numpy as np
import pytest
from cases import BINARY, CASES, Draw
from cases_shapes import ACLOPS
from direct import LAYOUTS, In, Library, Number, Out, Outs
from limits import LIMITS

TOLERANCES = {"float64": 1e-5, "float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}  # of the largest value


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

"""What CANN does not take is refused on the stand-in by name, with the arguments and the documented limit."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from build import HERE, StandInError, check_known
from direct import Flags, In, Ints, Library, Number, Out, Refused
from limits import LIMITS
from standin import run_on_standin

X = np.ones((2, 4, 8, 8))
W = np.ones((4, 4, 3, 3))
SETTINGS = [Ints([1, 1]), Ints([1, 1]), Ints([1, 1]), False, Ints([0, 0])]
NO_LIMIT = 2**31 - 1


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


def attention(heads=2, size=8, layout="BNSD", mask=None, keep=1.0, key_length=6):
    q, k = np.ones((1, heads, 5, size)), np.ones((1, heads, key_length, size))
    statistics = [Out(np.ones((1, heads, 5, 8)), "float32")] * 2
    given = [None, None, None, None if mask is None else In(mask, "bool"), None]
    return [In(q), In(k), In(k), *given, 1.0, keep, NO_LIMIT, NO_LIMIT, heads, layout, 0, 0, *statistics, None, Out(q)]


def convolution(x=X, w=W, padding=(1, 1), dilation=(1, 1), groups=1):
    settings = [Ints([1, 1]), Ints(padding), Ints(dilation), False, Ints([0, 0]), groups]
    return [In(x), In(w), None, *settings, Out(X), 0]


def group_norm():
    statistics = [Out(X[:, :2, 0, 0])] * 2
    return [In(X), None, None, 2, 4, 64, 2, 1e-5, Out(X), *statistics]


def group_norm_backward():
    inputs = [In(X), In(X), *[In(X[:, :2, 0, 0])] * 2, In(X[0, :, 0, 0])]
    return [*inputs, 2, 4, 64, 2, Flags([True] * 3), Out(X), *[Out(X[0, :, 0, 0])] * 2]


# Kernel, arguments, type, what the message must say.
REFUSED = [
    ("aclnnConvolution", convolution(), "float64", "input is float64[2x4x8x8] and must be float32, float16, bfloat16"),
    ("aclnnConvolution", convolution(dilation=(256, 1)), "float16", "dilation must be 1 to 255"),
    ("aclnnConvolution", convolution(padding=(256, 0)), "float16", "padding must be 0 to 255"),
    ("aclnnConvolution", convolution(groups=2), "float16", "groups times the weight's channels"),
    ("aclnnConvolution", convolution(x=X[0, 0]), "float16", "must have 3 to 5 dimensions"),
    ("aclnnMatmul", [In(X), In(X), Out(X), 0], "float64", "self is float64[2x4x8x8] and must be"),
    ("aclnnMatmul", [In(X), In(X[:, :, :4]), Out(X), 0], "float32", "inner dimensions must be equal: 8 and 4"),
    ("aclnnMatmul", [In(X, "bfloat16"), In(X), Out(X), 0], "float32", "must all be bfloat16 or none"),
    ("aclnnMm", [In(X), In(X), Out(X), 0], "float32", "must have 2 to 2 dimensions"),
    ("aclnnGroupNorm", group_norm(), "float64", "self is float64[2x4x8x8] and must be"),
    ("aclnnSilu", [In(X), Out(X)], "int32", "self is int32[2x4x8x8] and must be float32, float16, bfloat16"),
    ("aclnnSilu", [In(X), Out(X, "float16")], "float32", "self, out must have one type"),
    ("aclnnSilu", [In(X), Out(X[0])], "float32", "self, out must have one shape"),
    ("aclnnAdd", [In(X), In(X[:, :3]), Number(1), Out(X)], "float32", "must broadcast to the shape"),
    ("aclnnAdd", [In(X), In(X), Number(1), Out(X, "int32")], "float32", "cannot be cast"),
    ("aclnnPowTensorTensor", [In(X), In(X), Out(X)], "bool", "must not both be bool"),
    ("aclnnUpsampleNearest2d", [In(X[:0]), Ints([16, 16]), Out(X[:0])], "float32", "must not be empty"),
    ("aclnnEmbedding", [In(X[0, 0]), In(X[0, 0, 0]), Out(X[0, 0])], "float32", "indices is float32[8]"),
    ("aclnnSlice", [In(X), 1, 0, 4, -1, Out(X)], "float32", "step must be positive"),
    ("aclnnSlice", [In(X), 1, 0, 4, 1, Out(X)], "float64", "self is float64"),
    ("aclnnAny", [In(X), Ints([]), False, Out(np.ones(()), "float32")], "float32", "out is float32[] and must be bool"),
    ("aclnnFlashAttentionScore", attention(), "float64", "query is float64[1x2x5x8]"),
    ("aclnnFlashAttentionScore", attention(size=769), "float16", "the head size is 769 and must be 1 to 768"),
    ("aclnnFlashAttentionScore", attention(heads=257), "float16", "number of heads must be 1 to 256"),
    ("aclnnFlashAttentionScore", attention(layout="NSD"), "float16", "must be BSH, SBH, BSND or BNSD"),
    ("aclnnFlashAttentionScore", attention(layout="BSH"), "float16", "must have the dimensions of BSH"),
    ("aclnnFlashAttentionScore", attention(mask=np.zeros((5, 5))), "float16", "attenMask must have the shape"),
    ("aclnnFlashAttentionScore", attention(mask=np.zeros((1, 5, 6))), "float16", "attenMask must have the shape"),
    ("aclnnFlashAttentionScore", attention(keep=0.0), "float16", "keepProb must be above 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "dtype", "limit"), REFUSED)
def test_a_call_outside_the_limits_names_kernel_arguments_and_limit(library, name, arguments, dtype, limit):
    with pytest.raises(Refused) as refused:
        library.run(name, arguments, dtype)
    message = str(refused.value)
    assert limit in message
    assert f" {name} " in message and "->" in message and "[" in message
    assert "\n" not in message


def test_the_same_calls_in_allowed_types_pass(library):
    for name, arguments, dtype in [
        ("aclnnConvolution", convolution(), "float32"),
        ("aclnnSilu", [In(X), Out(X)], "bfloat16"),
        ("aclnnFlashAttentionScore", attention(mask=np.zeros((1, 1, 5, 6))), "bfloat16"),
    ]:
        library.run(name, arguments, dtype)


def test_attention_takes_heads_of_8(library):
    """As the preset tiny calls it: CANN's documentation allows 1 to 768."""
    library.run("aclnnFlashAttentionScore", attention(size=8), "float16")


def test_an_operator_by_name_is_refused_too(library):
    with pytest.raises(Refused, match=r"ReduceSum bool\[2x4x8x8\].*x is bool.*must be"):
        library.run_aclop("ReduceSum", [In(X), In(np.array(0), "int32")], [Out(X[0])], "bool")
    with pytest.raises(Refused, match=r"Erosion .*no such aclop.*kernels/aclop\.cc"):
        library.run_aclop("Erosion", [In(X)], [Out(X)])


@pytest.mark.parametrize(
    ("name", "arguments", "dtype"),
    [
        ("aclnnMul", [In(X), In(X), Out(X)], "bfloat16"),
        ("aclnnGroupNormBackward", group_norm_backward(), "bfloat16"),
        ("aclnnUpsampleNearest2d", [In(X), Ints([8, 8]), Out(X)], "float32"),
        ("aclnnFlashAttentionScore", attention(), "float16"),
    ],
)  # fmt: skip
def test_the_atlas_training_series_takes_less(library, monkeypatch, name, arguments, dtype):
    library.run(name, arguments, dtype)
    for soc in ("Ascend910A", "Ascend910ProB"):
        monkeypatch.setenv("STANDIN_SOC", soc)
        with pytest.raises(Refused, match=rf"{name} .*({dtype}.* and must be|it is not for {soc})"):
            library.run(name, arguments, dtype)
    for soc in ("Ascend910B4", "Ascend910_9391"):
        monkeypatch.setenv("STANDIN_SOC", soc)
        library.run(name, arguments, dtype)


def test_an_entry_names_its_page_and_its_own_tensors():
    for name, limit in LIMITS.items():
        assert re.fullmatch(r"(ops-(math|nn|cv|transformer):\w+/\w+)?", limit.source), name
        about = {word for rule in limit.rules for word in rule.split()[1:]} | set(limit.ranks)
        assert about <= set(limit.tensors), name


def test_an_index_outside_its_dimension_is_refused(library):
    table, index = In(X[0, 0]), In(np.array([8]), "int64")
    for name, arguments in [
        ("aclnnEmbedding", [table, index, Out(X[0, 0, :1])]),
        ("aclnnIndexSelect", [table, 0, index, Out(X[0, 0, :1])]),
        ("aclnnGather", [table, 0, In(np.full((1, 8), 8), "int64"), Out(X[0, 0, :1])]),
    ]:
        with pytest.raises(Refused, match=f"{name} .*index 8 is outside a dimension of 8"):
            library.run(name, arguments)
    with pytest.raises(Refused, match=r"GatherV2 .*index 8 is outside a dimension of 8"):
        library.run_aclop("GatherV2", [table, index, In(np.array(0), "int64")], [Out(X[0, 0, :1])])


def test_a_mindspore_that_calls_more_of_cann_is_refused_with_the_names():
    mindspore = Path(importlib.util.find_spec("mindspore").origin).parent
    known = (HERE / "functions.txt").read_text().split()
    check_known(mindspore, [*known, "aclnnTomorrow"])
    with pytest.raises(
        StandInError, match=r"also calls aclrtTomorrow, ge::Graph::Tomorrow\(\): write .*functions\.txt"
    ):
        check_known(mindspore, [*known, "aclrtTomorrow", "_ZN2ge5Graph8TomorrowEv"])


def refusals(**variables: str) -> dict[str, str]:
    result = run_on_standin(Path(__file__).with_name("refusals.py"), **variables)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {line["call"]: line["error"] for line in lines}


def test_mindspore_gives_back_the_refusal():
    errors = refusals()
    assert "aclnnConvolution float64[2x4x8x8]" in errors["float64 convolution"]
    assert "must be float32, float16, bfloat16 (CANN: https://" in errors["float64 convolution"]
    assert "aclnnMatmul float64" in errors["float64 product"]
    assert "aclnnGroupNorm float64" in errors["float64 group norm"]
    assert "aclnnSilu int32[2x4x8x8]" in errors["integer silu"]
    assert (
        "aclnnExp2: the stand-in has no such kernel; it belongs in tests/standin/native/kernels" in errors["no kernel"]
    )
    assert "the head size is 800 and must be 1 to 768 (CANN: https://" in errors["large heads"]
    assert errors["bfloat16 product"] == "" == errors["float32 silu"]


def test_mindspore_on_the_atlas_training_series():
    errors = refusals(STANDIN_SOC="Ascend910A")
    assert "bfloat16" in errors["bfloat16 product"]
    assert errors["float32 silu"] == ""

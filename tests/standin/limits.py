"""What CANN's documentation allows for each aclnn kernel of the stand-in: types and ranks of its tensors.

An entry without a source is open: nothing was found in CANN's documentation, and its limits are no more than those of
the operator in MindSpore. build.py compiles this table into the stand-in; a call outside it fails.
"""

from __future__ import annotations

from typing import NamedTuple

FLOATS = "float32 float16 bfloat16"
NUMBERS = "float32 float16 bfloat16 float64 int8 uint8 int16 int32 int64 bool"


class Limit(NamedTuple):
    """Of one kernel.

    Attributes:
        tensors: the types that each takes, by name; inputs, then outputs, in the order of the kernel's C++.
        source: the page of Ascend's aclnn reference; empty where none was found.
        max_rank: the most dimensions of a tensor.
    """

    tensors: dict[str, str]
    source: str = ""
    max_rank: int = 8


LIMITS = {
    "aclnnAbs": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnAdd": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnAddmm": Limit({"s": FLOATS, "a": FLOATS, "b": FLOATS, "o": NUMBERS}),
    "aclnnAdds": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnAll": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnAny": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnArange": Limit({"o": NUMBERS}),
    "aclnnBatchMatMul": Limit({"a": FLOATS, "b": FLOATS, "o": NUMBERS}),
    "aclnnCast": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnCat": Limit({"o": NUMBERS}),
    "aclnnClamp": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnConstantPadNd": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnConvolution": Limit({"x": FLOATS, "w": FLOATS, "b": FLOATS, "o": NUMBERS}),
    "aclnnConvolutionBackward": Limit({"gy": FLOATS, "x": FLOATS, "w": FLOATS, "gx": NUMBERS, "gw": NUMBERS, "gb": NUMBERS}),
    "aclnnCos": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnDiv": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnDivs": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnEmbedding": Limit({"a": NUMBERS, "ix": "int32 int64", "o": NUMBERS}),
    "aclnnEqScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnEqTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnExp": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnExpand": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnFlashAttentionScore": Limit({"q": FLOATS, "k": FLOATS, "v": FLOATS, "mask": "bool uint8", "smax": NUMBERS, "ssum": NUMBERS, "o": NUMBERS}),
    "aclnnFlashAttentionScoreGrad": Limit({"q": FLOATS, "k": FLOATS, "v": FLOATS, "dy": FLOATS, "dq": NUMBERS, "dk": NUMBERS, "dv": NUMBERS}),
    "aclnnGather": Limit({"a": NUMBERS, "ix": "int32 int64", "o": NUMBERS}),
    "aclnnGeScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnGeTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnGroupNorm": Limit({"x": FLOATS, "w": FLOATS, "b": FLOATS, "o": NUMBERS, "mean": NUMBERS, "rstd": NUMBERS}),
    "aclnnGroupNormBackward": Limit({"gy": FLOATS, "x": FLOATS, "mean": FLOATS, "rstd": FLOATS, "w": FLOATS, "gx": NUMBERS, "gw": NUMBERS, "gb": NUMBERS}),
    "aclnnGtScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnGtTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnIndexSelect": Limit({"a": NUMBERS, "ix": "int32 int64", "o": NUMBERS}),
    "aclnnInplaceAdd": Limit({"a": NUMBERS, "b": NUMBERS, "a": NUMBERS, "out": NUMBERS}),
    "aclnnInplaceCopy": Limit({"a": NUMBERS, "b": NUMBERS, "a": NUMBERS, "out": NUMBERS}),
    "aclnnInplaceFillScalar": Limit({"a": NUMBERS, "a": NUMBERS, "out": NUMBERS}),
    "aclnnInplaceMul": Limit({"a": NUMBERS, "b": NUMBERS, "a": NUMBERS, "out": NUMBERS}),
    "aclnnInplaceOne": Limit({"a": NUMBERS, "a": NUMBERS, "out": NUMBERS}),
    "aclnnInplaceZero": Limit({"a": NUMBERS, "a": NUMBERS, "out": NUMBERS}),
    "aclnnIsFinite": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnLayerNorm": Limit({"x": FLOATS, "w": FLOATS, "b": FLOATS, "o": NUMBERS, "mean": NUMBERS, "rstd": NUMBERS}),
    "aclnnLeScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnLeTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnLinspace": Limit({"o": NUMBERS}),
    "aclnnLog": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnLogicalAnd": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnLogicalNot": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnLogicalOr": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnLtScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnLtTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnMatmul": Limit({"a": FLOATS, "b": FLOATS, "o": NUMBERS}),
    "aclnnMaximum": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnMean": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnMinimum": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnMm": Limit({"a": FLOATS, "b": FLOATS, "o": NUMBERS}),
    "aclnnMseLoss": Limit({"a": FLOATS, "b": FLOATS, "o": NUMBERS}),
    "aclnnMul": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnMuls": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnNeScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnNeTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnNeg": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnNonzero": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnPermute": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnPowTensorScalar": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnPowTensorTensor": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnReciprocal": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnReduceSum": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnRepeat": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnRsqrt": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnSWhere": Limit({"c": "bool uint8", "a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnSigmoid": Limit({"a": FLOATS, "o": NUMBERS}),
    "aclnnSign": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnSilu": Limit({"a": FLOATS, "o": NUMBERS}),
    "aclnnSiluBackward": Limit({"g": FLOATS, "a": FLOATS, "o": NUMBERS}),
    "aclnnSin": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnSlice": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnSoftmax": Limit({"a": FLOATS, "o": NUMBERS}),
    "aclnnSoftmaxBackward": Limit({"g": FLOATS, "y": FLOATS, "o": NUMBERS}),
    "aclnnSplitWithSize": Limit({"a": NUMBERS}),
    "aclnnSqrt": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnSub": Limit({"a": NUMBERS, "b": NUMBERS, "o": NUMBERS}),
    "aclnnSubs": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnTanh": Limit({"a": NUMBERS, "o": NUMBERS}),
    "aclnnUpsampleNearest2d": Limit({"a": FLOATS, "o": NUMBERS}),
    "aclnnUpsampleNearest2dBackward": Limit({"g": FLOATS, "o": NUMBERS}),
}

"""What CANN's documentation allows for each kernel of the stand-in: types, ranks and relations of its tensors.

Read from the aclnn reference as it stood in August 2026 for Atlas A2 (Ascend910B) and the Atlas training series
(Ascend910A); each entry names its page. Types that the stand-in does not have (complex, unsigned beyond uint8, 8 bits)
are left out. build.py compiles this table into the stand-in; a call outside it fails. An entry without a source is
open: nothing was found, and its limits are no more than those of the operator in MindSpore.

Rules that need more than the tensors, such as the head size of attention, are checked beside the kernel, in C++.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

FLOATS = "float32 float16 bfloat16"
REALS = FLOATS + " float64"
INDICES = "int32 int64"
INTEGERS = "int8 uint8 int16 int32 int64"
NO_BOOL = REALS + " int8 uint8 int16 int32 int64"
ALL = NO_BOOL + " bool"


class Limit(NamedTuple):
    """Of one kernel.

    Attributes:
        tensors: the types that each takes on Atlas A2, by the documentation's name; inputs, then outputs, in the order
            of the kernel's C++.
        source: repository and folder at gitcode.com/cann whose documentation says so; empty where none was found.
        max_rank: the most dimensions of a tensor.
        without_910: the types that the Atlas training series lacks; with ``ALL`` it lacks the kernel.
        ranks: fewest and most dimensions of a tensor, where they are not 0 and max_rank.
        rules: a rule's name and the tensors it is about. ``same_type``, ``same_shape``, ``not_empty``,
            ``not_both_bool``; ``broadcast a b out``: out has their common shape; ``castable a b out``: their common
            type is not floating point where out's is an integer, and not an integer where out's is bool;
            ``no_bfloat16_mix``: float16 with float32 is promoted, bfloat16 stands alone; ``float32_or_same a b``.
    """

    tensors: dict[str, str]
    source: str = ""
    max_rank: int = 8
    without_910: str = "bfloat16"
    ranks: Mapping[str, tuple[int, int]] = MappingProxyType({})
    rules: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        """The address of the documentation, or ""."""
        repository, _, folder = self.source.partition(":")
        return f"https://gitcode.com/cann/{repository}/tree/master/{folder}" if folder else ""


COMPARISONS = {
    **{"Lt": "less", "Le": "less_equal", "Gt": "greater", "Ge": "greater_equal"},
    **{"Eq": "equal", "Ne": "not_equal"},
}


def alike(types: str, names: str) -> dict[str, str]:
    """Tensors that all take the same types."""
    return {name: types for name in names.split()}


GELU_GRADIENT = ("same_type gradOutput self gradInput", "same_shape gradOutput self gradInput")
LIMITS = {
    "aclnnAbs": Limit({"self": ALL, "out": ALL}, "ops-math:math/abs", rules=("same_shape self out",)),
    "aclnnAdd": Limit(
        {"self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/add",
        rules=("broadcast self other out", "castable self other out"),
    ),
    "aclnnAddmm": Limit(
        {"self": FLOATS, "mat1": FLOATS, "mat2": FLOATS, "out": FLOATS},
        "ops-nn:matmul/mat_mul_v3",
        rules=("no_bfloat16_mix mat1 mat2",),
        ranks={"self": (1, 2), "mat1": (2, 2), "mat2": (2, 2), "out": (2, 2)},
    ),
    "aclnnAdds": Limit({"self": ALL, "out": ALL}, "ops-math:math/add", rules=("same_shape self out",)),
    "aclnnAll": Limit({"self": ALL, "out": "bool uint8"}, "ops-math:math/reduce_all"),
    # Of MindSpore itself: the types are in its wheel, in custom_ascendc_910b/op_impl/ai_core/tbe/config.
    "aclnnAllFinite": Limit({"gradient": FLOATS, "is_finite": "bool"}),
    "aclnnAny": Limit({"self": ALL, "out": "bool"}, "ops-math:math/reduce_any"),
    "aclnnArange": Limit({"out": REALS + " int32 int64"}, "ops-math:math/range"),
    "aclnnBatchMatMul": Limit(
        {"self": FLOATS, "mat2": FLOATS, "out": FLOATS},
        "ops-nn:matmul/batch_mat_mul_v3",
        rules=("no_bfloat16_mix self mat2",),
        ranks={"self": (3, 3), "mat2": (3, 3), "out": (3, 3)},
    ),
    "aclnnCast": Limit({"self": ALL, "out": ALL}, "ops-math:math/cast", rules=("same_shape self out",)),
    "aclnnCat": Limit({"out": ALL}, "ops-math:conversion/concat_d"),
    "aclnnClamp": Limit(
        {"self": NO_BOOL, "out": NO_BOOL},
        "ops-math:conversion/clip_by_value_v2",
        rules=("same_shape self out", "castable self out"),
    ),
    "aclnnConstantPadNd": Limit({"self": ALL, "out": ALL}, "ops-math:conversion/pad_v3", rules=("same_type self out",)),
    "aclnnConvolution": Limit(
        {"input": FLOATS, "weight": FLOATS, "bias": FLOATS, "output": FLOATS},
        "ops-nn:conv/convolution_forward",
        rules=("no_bfloat16_mix input weight output", "same_type weight bias"),
        ranks={"input": (3, 5), "weight": (3, 5), "bias": (1, 5), "output": (3, 5)},
    ),
    "aclnnConvolutionBackward": Limit(
        {
            "gradOutput": FLOATS,
            "input": FLOATS,
            "weight": FLOATS,
            "gradInput": FLOATS,
            "gradWeight": FLOATS,
            "gradBias": FLOATS,
        },
        "ops-nn:conv/convolution_backward",
        rules=(
            "no_bfloat16_mix gradOutput input weight",
            "same_type input gradInput",
            "same_type gradOutput gradBias",
            "same_shape input gradInput",
            "same_shape weight gradWeight",
        ),
        ranks={"input": (3, 5), "weight": (3, 5)},
    ),
    "aclnnCos": Limit({"self": ALL, "out": REALS}, "ops-math:math/cos", rules=("same_shape self out",)),
    "aclnnDiv": Limit(
        {"self": ALL, "other": ALL, "out": REALS},
        "ops-math:math/div",
        rules=("broadcast self other out", "castable self other out"),
    ),
    "aclnnDivs": Limit({"self": ALL, "out": REALS}, "ops-math:math/div", rules=("same_shape self out",)),
    "aclnnEmbedding": Limit(
        {"weight": ALL, "indices": INDICES, "out": ALL},
        "ops-nn:index/embedding",
        rules=("same_type weight out",),
        ranks={"weight": (2, 2)},
    ),
    "aclnnExpand": Limit(
        {"self": FLOATS + " uint8 int8 int32 int64 bool", "out": FLOATS + " uint8 int8 int32 int64 bool"},
        "ops-math:math/expand",
        rules=("same_type self out", "broadcast self out"),
    ),
    "aclnnExpm1": Limit({"self": ALL, "out": REALS}, rules=("same_shape self out",)),
    "aclnnFlashAttentionScore": Limit(
        {
            "query": FLOATS,
            "key": FLOATS,
            "value": FLOATS,
            "realShift": FLOATS,
            "dropMask": "uint8",
            "attenMask": "bool uint8",
            "softmaxMax": "float32",
            "softmaxSum": "float32",
            "attentionOut": FLOATS,
        },
        "ops-transformer:attention/flash_attention_score",
        rules=("same_type query key value realShift attentionOut", "same_shape query attentionOut"),
        ranks={
            "query": (3, 4),
            "key": (3, 4),
            "value": (3, 4),
            "realShift": (4, 4),
            "dropMask": (1, 1),
            "attenMask": (2, 4),
        },
        without_910=ALL,
    ),
    "aclnnFlashAttentionScoreGrad": Limit(
        {
            "query": FLOATS,
            "key": FLOATS,
            "value": FLOATS,
            "dy": FLOATS,
            "realShift": FLOATS,
            "dropMask": "uint8",
            "attenMask": "bool uint8",
            "softmaxMax": "float32",
            "softmaxSum": "float32",
            "attentionIn": FLOATS,
            "dq": FLOATS,
            "dk": FLOATS,
            "dv": FLOATS,
        },
        "ops-transformer:attention/flash_attention_score_grad",
        rules=(
            "same_type query key value realShift",
            "same_shape query attentionIn dq",
            "same_shape key dk",
            "same_shape value dv",
        ),
        ranks={
            "query": (3, 4),
            "key": (3, 4),
            "value": (3, 4),
            "realShift": (4, 4),
            "dropMask": (1, 1),
            "attenMask": (2, 4),
        },
        without_910=ALL,
    ),
    "aclnnFlip": Limit({"self": ALL, "out": ALL}, rules=("same_type self out", "same_shape self out")),
    "aclnnGather": Limit(
        {"self": ALL, "index": INDICES, "out": ALL},
        "ops-nn:index/gather_elements_v2",
        rules=("same_type self out", "same_shape index out"),
    ),
    "aclnnGroupNormBackward": Limit(
        alike(FLOATS, "gradOut input mean rstd gamma gradInput gradGammaOut gradBetaOut"),
        "ops-nn:norm/group_norm_grad",
        rules=(
            "same_type gradOut input gradInput",
            "same_type mean rstd gamma gradGammaOut gradBetaOut",
            "float32_or_same gradOut mean",
            "same_shape input gradInput",
        ),
    ),
    "aclnnInplaceAdd": Limit(
        {"selfRef": ALL, "other": ALL}, "ops-math:math/add", rules=("broadcast other selfRef", "castable other selfRef")
    ),
    "aclnnInplaceCopy": Limit({"selfRef": ALL, "src": ALL}, "ops-math:conversion/view_copy"),
    "aclnnInplaceFillScalar": Limit({"selfRef": ALL}, "ops-math:conversion/fill"),
    "aclnnInplaceMaskedFillScalar": Limit({"selfRef": ALL, "mask": "bool"}),
    "aclnnInplaceMaskedFillTensor": Limit({"selfRef": ALL, "mask": "bool", "value": ALL}),
    "aclnnInplaceMul": Limit(
        {"selfRef": ALL, "other": ALL}, "ops-math:math/mul", rules=("broadcast other selfRef", "castable other selfRef")
    ),
    "aclnnInplaceNormal": Limit({"selfRef": FLOATS}),
    "aclnnInplaceOne": Limit({"selfRef": ALL}, "ops-math:math/ones_like"),
    "aclnnInplaceZero": Limit({"selfRef": ALL}, "ops-math:math/zero_op"),
    "aclnnIsFinite": Limit({"self": REALS, "out": "bool"}, "ops-math:math/is_finite", rules=("same_shape self out",)),
    "aclnnLayerNorm": Limit(
        alike(FLOATS, "input weightOptional biasOptional out meanOutOptional rstdOutOptional"),
        "ops-nn:norm/layer_norm_v4",
        rules=(
            "same_type input out",
            "same_type weightOptional biasOptional",
            "same_shape input out",
            "float32_or_same input weightOptional",
        ),
        ranks={"input": (1, 8)},
    ),
    "aclnnLog": Limit({"self": ALL, "out": REALS}, "ops-math:math/log", rules=("same_shape self out",)),
    "aclnnLogicalAnd": Limit(
        {"self": ALL, "other": ALL, "out": ALL}, "ops-math:math/logical_and", rules=("broadcast self other out",)
    ),
    "aclnnLogicalNot": Limit({"self": ALL, "out": ALL}, "ops-math:math/logical_not", rules=("same_shape self out",)),
    "aclnnLogicalOr": Limit(
        {"self": ALL, "other": ALL, "out": ALL}, "ops-math:math/logical_or", rules=("broadcast self other out",)
    ),
    "aclnnMax": Limit({"self": ALL, "out": ALL}, rules=("same_type self out",)),
    "aclnnLinalgVectorNorm": Limit({"self": FLOATS, "out": FLOATS}, "ops-nn:norm/lp_norm_v2"),
    "aclnnLerp": Limit(
        alike(FLOATS, "self end weight out"), "ops-math:math/lerp", rules=("same_type self end weight out",)
    ),
    "aclnnMaximum": Limit(
        {"self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/maximum",
        rules=("broadcast self other out", "castable self other out"),
    ),
    "aclnnMean": Limit({"self": NO_BOOL, "out": NO_BOOL}, "ops-math:math/reduce_mean", rules=("castable self out",)),
    "aclnnMin": Limit({"self": ALL, "out": ALL}, rules=("same_type self out",)),
    "aclnnMinimum": Limit(
        {"self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/minimum",
        rules=("broadcast self other out", "castable self other out"),
        without_910="bfloat16 bool",
    ),
    "aclnnMm": Limit(
        {"self": FLOATS, "mat2": FLOATS, "out": FLOATS},
        "ops-nn:matmul/mat_mul_v3",
        rules=("no_bfloat16_mix self mat2",),
        ranks={"self": (2, 2), "mat2": (2, 2), "out": (2, 2)},
    ),
    "aclnnMseLoss": Limit(
        {"self": FLOATS, "target": FLOATS, "out": FLOATS},
        "ops-nn:loss/mse_loss",
        ranks={"self": (1, 8), "target": (1, 8)},
    ),
    "aclnnMul": Limit(
        {"self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/mul",
        rules=("broadcast self other out", "castable self other out"),
    ),
    "aclnnMuls": Limit({"self": ALL, "out": ALL}, "ops-math:math/muls", rules=("same_shape self out",)),
    "aclnnNonzero": Limit({"self": ALL, "out": "int64"}, "ops-nn:index/non_zero", ranks={"out": (2, 2)}),
    "aclnnPermute": Limit({"self": ALL, "out": ALL}, "ops-math:conversion/transpose", rules=("same_type self out",)),
    "aclnnPowTensorScalar": Limit(
        {"self": ALL, "out": ALL}, "ops-math:math/pow", rules=("same_shape self out", "castable self out")
    ),
    "aclnnPowTensorTensor": Limit(
        {"self": ALL, "exponent": ALL, "out": ALL},
        "ops-math:math/pow",
        rules=("broadcast self exponent out", "castable self exponent out", "not_both_bool self exponent"),
    ),
    "aclnnReciprocal": Limit({"self": ALL, "out": REALS}, "ops-math:math/reciprocal", rules=("same_shape self out",)),
    "aclnnReduceSum": Limit({"self": ALL, "out": ALL}, "ops-math:math/reduce_sum"),
    "aclnnRelu": Limit({"self": FLOATS, "out": FLOATS}, rules=("same_type self out", "same_shape self out")),
    "aclnnRepeat": Limit({"self": ALL, "out": ALL}, "ops-math:math/tile", rules=("same_type self out",)),
    "aclnnRsqrt": Limit({"self": ALL, "out": REALS}, "ops-math:math/rsqrt", rules=("same_shape self out",)),
    "aclnnSWhere": Limit(
        {"condition": "uint8 bool", "self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/select",
        rules=("broadcast condition self other out",),
    ),
    "aclnnSigmoid": Limit({"self": FLOATS, "out": FLOATS}, "ops-nn:activation/sigmoid", rules=("same_shape self out",)),
    "aclnnSign": Limit(
        {"self": REALS + " int32 int64 bool", "out": REALS + " int32 int64 bool"},
        "ops-math:math/sign",
        rules=("same_shape self out", "same_type self out"),
    ),
    "aclnnSilu": Limit(
        {"self": FLOATS, "out": FLOATS}, "ops-nn:activation/swish", rules=("same_shape self out", "same_type self out")
    ),
    "aclnnSiluBackward": Limit(
        {"gradOutput": FLOATS, "self": FLOATS, "gradInput": FLOATS},
        "ops-nn:activation/silu_grad",
        rules=("same_shape gradOutput self gradInput", "same_type gradOutput self gradInput"),
        ranks={"gradOutput": (1, 8)},
    ),
    "aclnnSin": Limit({"self": ALL, "out": REALS}, "ops-math:math/sin", rules=("same_shape self out",)),
    "aclnnSlice": Limit(
        {"self": FLOATS + " int32 int64 int8 uint8 bool", "out": FLOATS + " int32 int64 int8 uint8 bool"},
        "ops-math:conversion/slice",
        rules=("same_type self out",),
        ranks={"self": (1, 8)},
    ),
    "aclnnSoftmax": Limit(
        {"self": REALS, "out": REALS}, "ops-nn:activation/softmax_v2", rules=("same_shape self out",)
    ),
    "aclnnSoftmaxBackward": Limit(
        {"gradOutput": FLOATS, "output": FLOATS, "out": FLOATS},
        "ops-nn:activation/softmax_grad",
        rules=("same_shape gradOutput output out", "same_type gradOutput output"),
    ),
    "aclnnSplitTensor": Limit({"self": ALL}),
    "aclnnSplitWithSize": Limit({"self": ALL}, "ops-math:conversion/split_v"),
    "aclnnSqrt": Limit({"self": ALL, "out": REALS}, "ops-math:math/sqrt", rules=("same_shape self out",)),
    "aclnnStack": Limit({"out": ALL}),
    "aclnnSub": Limit(
        {"self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/sub",
        rules=("broadcast self other out", "castable self other out"),
    ),
    "aclnnSubs": Limit({"self": ALL, "out": ALL}, "ops-math:math/sub", rules=("same_shape self out",)),
    "aclnnTanh": Limit(
        {"self": FLOATS + " bool uint8 int8 int16 int32 int64", "out": FLOATS},
        "ops-math:math/tanh",
        rules=("same_shape self out",),
    ),
    "aclnnUpsampleNearest2d": Limit(
        {"self": REALS + " uint8", "out": REALS + " uint8"},
        "ops-cv:image/resize_nearest_neighbor_v2",
        rules=("same_type self out", "not_empty self out"),
        ranks={"self": (4, 4), "out": (4, 4)},
        without_910="bfloat16 float32",
    ),
    "aclnnUpsampleNearest2dBackward": Limit(
        {"gradOut": FLOATS, "gradInput": FLOATS},
        "ops-cv:image/upsample_nearest2d_grad",
        rules=("same_type gradOut gradInput", "not_empty gradOut gradInput"),
        ranks={"gradOut": (4, 4), "gradInput": (4, 4)},
        without_910="bfloat16 float32",
    ),
    "aclnnEmbeddingDenseBackward": Limit({"grad": FLOATS, "indices": INDICES, "out": FLOATS}),
    "aclnnErf": Limit({"self": ALL, "out": REALS}, rules=("same_shape self out",)),
    "aclnnExp": Limit(
        {"self": REALS + " bool int64", "out": REALS}, "ops-math:math/exp", rules=("same_shape self out",)
    ),
    "aclnnGelu": Limit({"self": FLOATS, "out": FLOATS}, rules=("same_type self out", "same_shape self out")),
    "aclnnGeluBackward": Limit({"gradOutput": FLOATS, "self": FLOATS, "gradInput": FLOATS}, rules=GELU_GRADIENT),
    "aclnnGeluBackwardV2": Limit({"gradOutput": FLOATS, "self": FLOATS, "gradInput": FLOATS}, rules=GELU_GRADIENT),
    "aclnnGeluV2": Limit({"x": FLOATS, "y": FLOATS}, rules=("same_type x y", "same_shape x y")),
    "aclnnGroupNorm": Limit(
        {"self": FLOATS, "gamma": FLOATS, "beta": FLOATS, "out": FLOATS, "meanOut": FLOATS, "rstdOut": FLOATS},
        "ops-nn:norm/group_norm",
        rules=("same_type self gamma beta out meanOut rstdOut", "same_shape self out"),
        ranks={"self": (2, 8), "gamma": (1, 1), "beta": (1, 1), "meanOut": (2, 2), "rstdOut": (2, 2)},
    ),
    "aclnnIndex": Limit({"self": ALL, "out": ALL}, rules=("same_type self out",)),
    "aclnnIndexSelect": Limit(
        {"self": ALL, "index": INDICES, "out": ALL}, "ops-nn:index/gather_v2", rules=("same_type self out",)
    ),
    "aclnnLayerNormBackward": Limit(
        alike(FLOATS, "gradOut input mean rstd weightOptional biasOptional gradInputOut gradWeightOut gradBiasOut"),
        rules=("same_type gradOut input gradInputOut", "same_shape gradOut input gradInputOut"),
    ),
    "aclnnLinspace": Limit(
        {"out": REALS + " int8 int16 int32 uint8"},
        "ops-math:math/lin_space",
        rules=("not_empty out",),
        without_910="bfloat16 int16",
    ),
    "aclnnMatmul": Limit(
        {"self": FLOATS, "mat2": FLOATS, "out": FLOATS},
        "ops-nn:matmul/mat_mul_v3",
        rules=("no_bfloat16_mix self mat2",),
        ranks={"self": (1, 6), "mat2": (1, 6), "out": (0, 6)},
    ),
    "aclnnNeg": Limit(
        {"self": REALS + " int8 int32 int64", "out": REALS + " int8 int32 int64"},
        "ops-math:math/neg",
        rules=("same_shape self out", "castable self out"),
    ),
    **{
        f"aclnn{name}Tensor": Limit(
            {"self": ALL, "other": ALL, "out": ALL}, f"ops-math:math/{folder}", rules=("broadcast self other out",)
        )
        for name, folder in COMPARISONS.items()
    },
    **{
        f"aclnn{name}Scalar": Limit(
            {"self": ALL, "out": ALL}, f"ops-math:math/{folder}", rules=("same_shape self out",)
        )
        for name, folder in COMPARISONS.items()
    },
    # Operators called by name, aclop: the types of their prototypes.
    "AddN": Limit({"x": NO_BOOL, "out": NO_BOOL}, "ops-math:math/add_n"),
    "ApplyAdamD": Limit(alike(FLOATS, "var m v beta1_power beta2_power lr beta1 beta2 epsilon grad")),
    "ArgMaxV2": Limit({"x": NO_BOOL, "dimension": INDICES, "y": INDICES}),
    "Assign": Limit({"ref": ALL, "value": ALL}, "ops-math:conversion/assign"),
    "AssignAdd": Limit({"ref": NO_BOOL, "value": NO_BOOL}, "ops-math:math/assign_add"),
    "AssignSub": Limit({"var": NO_BOOL, "value": NO_BOOL}, "ops-math:math/assign_sub"),
    "BiasAdd": Limit({"x": FLOATS, "bias": FLOATS, "y": FLOATS}, rules=("same_shape x y",)),
    "BitwiseAnd": Limit({"x1": INTEGERS, "x2": INTEGERS, "y": INTEGERS}),
    "BitwiseOr": Limit({"x1": INTEGERS, "x2": INTEGERS, "y": INTEGERS}),
    "BitwiseXor": Limit({"x1": INTEGERS, "x2": INTEGERS, "y": INTEGERS}),
    "Cumprod": Limit({"x": NO_BOOL}, "ops-math:math/cumprod"),
    "Fill": Limit({"dims": INDICES, "value": ALL, "y": ALL}),
    "GatherNd": Limit({"x": ALL, "indices": INDICES, "y": ALL}),
    "GatherV2": Limit({"x": ALL, "indices": INDICES, "axis": INDICES}, "ops-nn:index/gather_v2"),
    "LayerNorm": Limit({"x": FLOATS, "gamma": FLOATS, "beta": FLOATS, "y": FLOATS, "mean": FLOATS, "variance": FLOATS}),
    "LeftShift": Limit({"x": INTEGERS, "y": INTEGERS, "z": INTEGERS}),
    "Identity": Limit({"x": ALL, "y": ALL}),
    "OnesLike": Limit({"x": ALL, "y": ALL}, "ops-math:math/ones_like"),
    "Pack": Limit({"x": ALL, "y": ALL}),
    "Pad": Limit({"x": ALL, "paddings": INDICES, "y": ALL}),
    "Range": Limit({"start": REALS + " " + INDICES, "limit": REALS + " " + INDICES, "delta": REALS + " " + INDICES}),
    "RealDiv": Limit({"x1": ALL, "x2": ALL, "y": ALL}, "ops-math:math/real_div"),
    "ReduceMean": Limit({"x": NO_BOOL, "axes": INDICES, "y": NO_BOOL}, "ops-math:math/reduce_mean"),
    "ReduceSum": Limit({"x": NO_BOOL, "axes": INDICES, "y": NO_BOOL}, "ops-math:math/reduce_sum"),
    "RightShift": Limit({"x": INTEGERS, "y": INTEGERS, "z": INTEGERS}),
    "Slice": Limit({"x": ALL, "offsets": INDICES, "size": INDICES, "y": ALL}, "ops-math:conversion/slice"),
    "Split": Limit({"split_dim": "int32", "x": ALL}, "ops-math:conversion/split"),
    "SqrtGrad": Limit({"y": FLOATS, "dy": FLOATS, "z": FLOATS}, rules=("same_shape y dy z",)),
    "StridedSlice": Limit(
        {"x": ALL, "begin": INDICES, "end": INDICES, "strides": INDICES}, "ops-math:conversion/strided_slice"
    ),
    "StridedSliceGrad": Limit(alike(INDICES, "shape begin end strides") | {"dy": ALL, "output": ALL}),
    "TensorMove": Limit({"x": ALL, "y": ALL}, "ops-math:conversion/tensor_move"),
    "Unpack": Limit({"x": ALL}),
    "ZerosLike": Limit({"x": ALL, "y": ALL}, "ops-math:conversion/zeros_like"),
}

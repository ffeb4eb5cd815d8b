"""What CANN's documentation allows for each kernel of the stand-in. build.py compiles this table into it."""

from __future__ import annotations

from limit import ALL, FLOATS, INDICES, INTEGERS, NO_BOOL, REALS, Limit, alike
from limits_aclop import ACLOPS

COMPARISONS = {
    **{"Lt": "less", "Le": "less_equal", "Gt": "greater", "Ge": "greater_equal"},
    **{"Eq": "equal", "Ne": "not_equal"},
}


LAYER_NORM_GRADIENT = "gradOut input mean rstd weightOptional biasOptional gradInputOut gradWeightOut gradBiasOut"
FILLED = FLOATS + " int8 int32 int64 bool"  # what masked_fill takes
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
    "aclnnExpm1": Limit(
        {"self": FLOATS + " int64 bool", "out": REALS}, "ops-math:math/expm1", rules=("same_shape self out",)
    ),
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
    # Not for Atlas training by the page's table of products; its notes and CANN's code only take bfloat16 away there.
    "aclnnFlip": Limit(
        {"self": ALL, "out": ALL},
        "ops-nn:index/reverse_v2",
        rules=("same_type self out", "same_shape self out"),
        ranks={"self": (1, 8), "out": (1, 8)},
        without_910=ALL,
    ),
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
    "aclnnInplaceMaskedFillScalar": Limit(
        {"selfRef": FILLED, "mask": "bool"},
        "ops-math:conversion/masked_fill",
        rules=("broadcast mask selfRef",),
    ),
    "aclnnInplaceMaskedFillTensor": Limit(
        {"selfRef": FILLED, "mask": "bool", "value": FILLED},
        "ops-math:conversion/masked_fill",
        rules=("broadcast mask selfRef",),
        ranks={"value": (0, 0)},
    ),
    "aclnnInplaceMul": Limit(
        {"selfRef": ALL, "other": ALL}, "ops-math:math/mul", rules=("broadcast other selfRef", "castable other selfRef")
    ),
    "aclnnInplaceNormal": Limit({"selfRef": REALS}, "ops-math:random/dsa_random_normal"),
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
    # The page says (1,) for out, CANN's code takes () as well.
    "aclnnMax": Limit({"self": ALL, "out": ALL}, "ops-math:math/reduce_max", ranks={"out": (0, 1)}),
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
    "aclnnMin": Limit(
        {"self": ALL, "out": ALL}, "ops-math:math/reduce_min", rules=("same_type self out",), ranks={"out": (0, 1)}
    ),
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
    "aclnnRelu": Limit(
        {"self": FLOATS + " int8 int32 int64", "out": FLOATS + " int8 int32 int64"},
        "ops-nn:activation/relu",
        rules=("same_type self out", "same_shape self out"),
    ),
    "aclnnRepeat": Limit({"self": ALL, "out": ALL}, "ops-math:math/tile", rules=("same_type self out",)),
    "aclnnRsqrt": Limit({"self": ALL, "out": REALS}, "ops-math:math/rsqrt", rules=("same_shape self out",)),
    "aclnnSWhere": Limit(
        {"condition": "uint8 bool", "self": ALL, "other": ALL, "out": ALL},
        "ops-math:math/select",
        rules=("broadcast condition self other out",),
    ),
    "aclnnSigmoid": Limit({"self": FLOATS, "out": FLOATS}, "ops-nn:activation/sigmoid", rules=("same_shape self out",)),
    "aclnnSigmoidBackward": Limit(
        {"gradOutput": FLOATS + " float64", "output": FLOATS + " float64", "gradInput": FLOATS + " float64"},
        "ops-nn:activation/sigmoid_grad",
        rules=("same_shape gradOutput output gradInput", "same_type gradOutput output gradInput"),
        ranks={"gradOutput": (1, 8)},
        without_910="bfloat16",
    ),
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
    "aclnnSplitTensor": Limit({"self": ALL}, "ops-math:conversion/split_v", ranks={"self": (1, 8)}),
    "aclnnSplitWithSize": Limit({"self": ALL}, "ops-math:conversion/split_v"),
    "aclnnSqrt": Limit({"self": ALL, "out": REALS}, "ops-math:math/sqrt", rules=("same_shape self out",)),
    "aclnnStack": Limit({"out": ALL}, "ops-math:conversion/pack", ranks={"out": (1, 8)}),
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
    "aclnnEmbeddingDenseBackward": Limit(
        {"grad": FLOATS, "indices": "float32 float16 float64 " + INTEGERS + " bool", "out": FLOATS},
        "ops-nn:index/embedding_dense_grad_v2",
        rules=("same_type grad out",),
        ranks={"grad": (2, 8), "indices": (1, 8), "out": (2, 2)},
    ),
    # Without bfloat16: the page and the operator's README give it to Atlas A3 alone; CANN's code takes it on A2 too.
    "aclnnErf": Limit(
        {"self": "float32 float16 float64 int64 bool", "out": "float32 float16 float64"},
        "ops-math:math/erf",
        rules=("same_shape self out",),
    ),
    "aclnnExp": Limit(
        {"self": REALS + " bool int64", "out": REALS}, "ops-math:math/exp", rules=("same_shape self out",)
    ),
    "aclnnGelu": Limit(
        {"self": FLOATS, "out": FLOATS}, "ops-nn:activation/gelu", rules=("same_type self out", "same_shape self out")
    ),
    "aclnnGeluBackward": Limit(
        {"gradOutput": FLOATS, "self": FLOATS, "gradInput": FLOATS},
        "ops-nn:activation/gelu_grad",
        rules=("broadcast gradOutput self gradInput",),
    ),
    "aclnnGeluBackwardV2": Limit(
        {"gradOutput": FLOATS, "self": FLOATS, "gradInput": FLOATS},
        "ops-nn:activation/gelu_grad_v2",
        rules=(
            "broadcast gradOutput self gradInput",
            "float32_or_same gradOutput gradInput",
            "float32_or_same self gradInput",
        ),
    ),
    "aclnnGeluV2": Limit(
        {"x": FLOATS, "y": FLOATS}, "ops-nn:activation/gelu_v2", rules=("same_type x y", "same_shape x y")
    ),
    "aclnnGroupNorm": Limit(
        {"self": FLOATS, "gamma": FLOATS, "beta": FLOATS, "out": FLOATS, "meanOut": FLOATS, "rstdOut": FLOATS},
        "ops-nn:norm/group_norm",
        rules=("same_type self gamma beta out meanOut rstdOut", "same_shape self out"),
        ranks={"self": (2, 8), "gamma": (1, 1), "beta": (1, 1), "meanOut": (2, 2), "rstdOut": (2, 2)},
    ),
    "aclnnIndex": Limit(
        {"self": ALL, "out": ALL}, "ops-nn:index/index", rules=("same_type self out",), ranks={"out": (1, 8)}
    ),
    "aclnnIndexSelect": Limit(
        {"self": ALL, "index": INDICES, "out": ALL}, "ops-nn:index/gather_v2", rules=("same_type self out",)
    ),
    "aclnnLayerNormBackward": Limit(
        alike(FLOATS, LAYER_NORM_GRADIENT),
        "ops-nn:norm/layer_norm_grad_v3",
        rules=(
            "same_type gradOut input gradInputOut",
            "same_type mean rstd",
            "same_type weightOptional biasOptional gradWeightOut gradBiasOut",
            "float32_or_same input mean",
            "float32_or_same input weightOptional",
            "same_shape gradOut input gradInputOut",
            "same_shape mean rstd",
            "same_shape weightOptional biasOptional gradWeightOut gradBiasOut",
            "not_empty gradOut input mean rstd weightOptional biasOptional",
        ),
        ranks=dict.fromkeys(LAYER_NORM_GRADIENT.split(), (1, 8)),
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
    **ACLOPS,
}

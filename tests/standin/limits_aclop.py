"""The limits of operators that are called by name (aclop): the types of their prototypes. See limits.py."""

from __future__ import annotations

from limit import ALL, FLOATS, INDICES, INTEGERS, NO_BOOL, REALS, Limit, alike

ACLOPS = {
    "AddN": Limit({"x": NO_BOOL, "out": NO_BOOL}, "ops-math:math/add_n"),
    "ApplyAdamD": Limit(
        alike(FLOATS, "var m v beta1_power beta2_power lr beta1 beta2 epsilon grad"), "ops-nn:optim/apply_adam_d"
    ),
    "ArgMaxV2": Limit({"x": NO_BOOL, "dimension": INDICES, "y": INDICES}, "ops-math:math/arg_max_v2"),
    "Assign": Limit({"ref": ALL, "value": ALL}, "ops-math:conversion/assign"),
    "AssignAdd": Limit({"ref": NO_BOOL, "value": NO_BOOL}, "ops-math:math/assign_add"),
    "AssignSub": Limit({"var": NO_BOOL, "value": NO_BOOL}, "ops-math:math/assign_sub"),
    "BiasAdd": Limit(
        alike(FLOATS + " int32 int64", "x bias y"),
        "ops-math:math/bias_add",
        rules=("same_type x y", "same_shape x y"),
        ranks={"bias": (1, 1)},
    ),
    "BitwiseAnd": Limit(
        alike(INTEGERS, "x1 x2 y"), "ops-math:math/bitwise_and", rules=("same_type x1 x2 y", "broadcast x1 x2 y")
    ),
    "BitwiseOr": Limit(
        alike("int16 int32 int64", "x1 x2 y"),
        "ops-math:math/bitwise_or",
        rules=("same_type x1 x2 y", "broadcast x1 x2 y"),
        without_910="int64",
    ),
    "BitwiseXor": Limit(
        alike("int16 int32 int64", "x1 x2 y"),
        "ops-math:math/bitwise_xor",
        rules=("same_type x1 x2 y", "broadcast x1 x2 y"),
        without_910="int64",
    ),
    "Cumprod": Limit({"x": NO_BOOL}, "ops-math:math/cumprod"),
    "Fill": Limit(
        {"dims": INDICES, "value": ALL, "y": ALL},
        "ops-math:conversion/fill",
        rules=("same_type value y",),
        ranks={"dims": (1, 1)},
    ),
    # The README's types for Atlas A2; its table of products has the newer operator in mind, for Ascend 950 alone.
    "GatherNd": Limit(
        {
            "x": FLOATS + " int8 uint8 int32 int64 bool",
            "indices": INDICES,
            "y": FLOATS + " int8 uint8 int32 int64 bool",
        },
        "ops-nn:index/gather_nd",
        rules=("same_type x y",),
        ranks={"x": (1, 8), "indices": (1, 8)},
    ),
    "GatherV2": Limit({"x": ALL, "indices": INDICES, "axis": INDICES}, "ops-nn:index/gather_v2"),
    "LayerNorm": Limit(
        alike(FLOATS, "x gamma beta y mean variance"),
        "ops-nn:norm/layer_norm",
        rules=(
            "same_type x y",
            "same_type gamma beta mean variance",
            "float32_or_same x gamma",
            "same_shape x y",
            "same_shape gamma beta",
            "same_shape mean variance",
        ),
    ),
    # The prototype is in common/inc/op_graph/op_math_proto_extend.h.
    "LeftShift": Limit(alike(INTEGERS, "x y z"), "ops-math:math/left_shift", rules=("same_type x y z",)),
    "Identity": Limit({"x": ALL, "y": ALL}, "ops-math:conversion/identity", rules=("same_type x y", "same_shape x y")),
    "OnesLike": Limit({"x": ALL, "y": ALL}, "ops-math:math/ones_like"),
    "Pack": Limit({"x": ALL, "y": ALL}, "ops-math:conversion/pack"),
    "Pad": Limit({"x": ALL, "paddings": INDICES, "y": ALL}, "ops-math:conversion/pad", rules=("same_type x y",)),
    "Range": Limit(alike(REALS + " " + INDICES, "start limit delta"), "ops-math:math/range"),
    "RealDiv": Limit({"x1": ALL, "x2": ALL, "y": ALL}, "ops-math:math/real_div"),
    "ReduceMean": Limit({"x": NO_BOOL, "axes": INDICES, "y": NO_BOOL}, "ops-math:math/reduce_mean"),
    "ReduceSum": Limit({"x": NO_BOOL, "axes": INDICES, "y": NO_BOOL}, "ops-math:math/reduce_sum"),
    "RightShift": Limit(alike(INTEGERS, "x y z"), "ops-math:math/right_shift", rules=("same_type x y z",)),
    "Slice": Limit({"x": ALL, "offsets": INDICES, "size": INDICES, "y": ALL}, "ops-math:conversion/slice"),
    "Split": Limit({"split_dim": "int32", "x": ALL}, "ops-math:conversion/split"),
    "SqrtGrad": Limit(
        alike(REALS, "y dy z"), "ops-math:math/sqrt_grad", rules=("same_type y dy z", "same_shape y dy z")
    ),
    "StridedSlice": Limit(
        {"x": ALL, "begin": INDICES, "end": INDICES, "strides": INDICES}, "ops-math:conversion/strided_slice"
    ),
    "StridedSliceGrad": Limit(
        alike(INDICES, "shape begin end strides") | alike(NO_BOOL, "dy output"),
        "ops-math:conversion/strided_slice_grad",
        rules=("same_type dy output",),
    ),
    "TensorMove": Limit({"x": ALL, "y": ALL}, "ops-math:conversion/tensor_move"),
    "Unpack": Limit({"x": ALL}, "ops-math:conversion/unpack", ranks={"x": (1, 8)}),
    "ZerosLike": Limit({"x": ALL, "y": ALL}, "ops-math:conversion/zeros_like"),
}

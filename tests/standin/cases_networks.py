"""Calls of the kernels with what NumPy says they give: normalisation, products, convolution, attention."""

from __future__ import annotations

import numpy as np
from cases import CASES, case
from direct import Flags, In, Ints, Number, Out, round_to


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

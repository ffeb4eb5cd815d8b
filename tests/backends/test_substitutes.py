"""Every substitute against NumPy in float64: its value, and its gradient along a random direction."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import NEEDS_ONEDNN_3, ROOT
from mindspore import mint, nn
from mindspore.mint.nn import functional as mint_functional

from mindone_ddpm.backends.base import adam_plain
from mindone_ddpm.backends.choose import choose
from mindone_ddpm.backends.cpu.fused import adam_native
from mindone_ddpm.backends.substitutes import SUBSTITUTES, Replacements, adam_fused, divide

GENERATOR = np.random.default_rng(1)
X = GENERATOR.standard_normal((2, 4, 6, 6))
WEIGHT = GENERATOR.standard_normal((5, 4, 3, 3))
WEIGHT_1X1 = GENERATOR.standard_normal((5, 4, 1, 1))
BIAS = GENERATOR.standard_normal(5)
MATRICES = GENERATOR.standard_normal((3, 4, 4))


def conv2d_reference(x, weight, bias, stride, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[None, :, None, None]


class Conv(nn.Cell):
    """mint's own Cell, weights given as inputs so that their gradients are tested as well."""

    def __init__(self, kernel_size, stride, padding):
        super().__init__()
        self.conv = mint.nn.Conv2d(4, 5, kernel_size, stride=stride, padding=padding)

    def construct(self, x, weight, bias):
        return ms.ops.conv2d(x, weight, bias, self.conv.stride, "pad", self.conv.padding)


def erf(x):
    return np.vectorize(math.erf)(x)


def layer_norm_reference(x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5)


def f_pad(x):
    return mint_functional.pad(x, (0, 1, 2, 0), mode="constant", value=0)


def f_split(x):
    return mint.split(x, [1, 3], dim=1)[1]


def f_chunk(x):
    return mint.chunk(x, 2, dim=1)[1]


def f_stack(x):
    return mint.stack([x, x * 2], dim=1)


def f_baddbmm(x):
    return mint.baddbmm(x, x, x, beta=0.5, alpha=2.0)


def f_repeat(x):
    return mint.repeat_interleave(x, 2, 1)


def f_norm(x):
    return mint.norm(x)


def f_gelu(x):
    return mint_functional.gelu(x)


def f_layer_norm(x):
    return mint_functional.layer_norm(x, (6,))


def f_mse(x):
    return mint_functional.mse_loss(x, x * x)


def f_avg_pool(x):
    return mint_functional.avg_pool2d(x, 2, 2)


def f_divide(x):
    return divide(x, 3) + divide(divide(x, 0.7), 2.5) + divide(x, 1)


def f_slash(x):
    """MindSpore's own, which differs between its versions."""
    return x / 3 + (x / 0.7) / 2.5


def f_nearest(x):
    return mint_functional.interpolate(x, size=(12, 18), mode="nearest")


def f_embedding(table):
    return mint_functional.embedding(ms.Tensor([2, 0, 2], ms.int32), table)


def f_zeros_like(x):
    return x * mint.zeros_like(x)


def f_ones_like(x):
    return x * mint.ones_like(x)


def f_dropout_off(x):
    return mint_functional.dropout(x, 0.5, False)


def f_group_norm(x):
    return mint_functional.group_norm(x, 2)


def f_silu(x):
    return mint_functional.silu(x)


def f_softmax(x):
    return mint.softmax(x, dim=-1)


def f_linspace(x):
    return x * mint.linspace(0.0, 1.0, 6)


def f_arange(x):
    return x * mint.arange(0, 6, dtype=ms.float32)


def group_norm_reference(x):
    groups = x.reshape(2, 2, -1)
    return ((groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)


def softmax_reference(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


CASES = {
    "pad": (f_pad, lambda x: np.pad(x, ((0, 0), (0, 0), (2, 0), (0, 1))), (X,)),
    "split": (f_split, lambda x: x[:, 1:], (X,)),
    "chunk": (f_chunk, lambda x: x[:, 2:], (X,)),
    "stack": (f_stack, lambda x: np.stack([x, 2 * x], 1), (X,)),
    "baddbmm": (f_baddbmm, lambda x: 0.5 * x + 2 * x @ x, (MATRICES,)),
    "repeat_interleave": (f_repeat, lambda x: x.repeat(2, 1), (X,)),
    "norm": (f_norm, lambda x: np.sqrt((x**2).sum()), (X,)),
    "gelu": (f_gelu, lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))), (X,)),
    "layer_norm": (f_layer_norm, layer_norm_reference, (X,)),
    "mse_loss": (f_mse, lambda x: ((x - x * x) ** 2).mean(), (X,)),
    "avg_pool2d": (f_avg_pool, lambda x: x.reshape(2, 4, 3, 2, 3, 2).mean((3, 5)), (X,)),
    "division by a number": (f_divide, lambda x: x / 3 + x / 1.75 + x, (X,)),
    "MindSpore's division": (f_slash, lambda x: x / 3 + x / 1.75, (X,)),
    "interpolate": (f_nearest, lambda x: x.repeat(2, 2).repeat(3, 3), (X,)),
    "embedding": (f_embedding, lambda table: table[[2, 0, 2]], (MATRICES[0],)),
    "zeros_like": (f_zeros_like, lambda x: 0 * x, (X,)),
    "ones_like": (f_ones_like, lambda x: x, (X,)),
    "dropout off": (f_dropout_off, lambda x: x, (X,)),
    "group_norm": (f_group_norm, group_norm_reference, (X,)),
    "silu": (f_silu, lambda x: x / (1 + np.exp(-x)), (X,)),
    "softmax": (f_softmax, softmax_reference, (X,)),
    "linspace": (f_linspace, lambda x: x * np.linspace(0, 1, 6), (X,)),
    "arange": (f_arange, lambda x: x * np.arange(6), (X,)),
    "conv2d 3x3": (Conv(3, 1, 1), lambda x, w, b: conv2d_reference(x, w, b, 1, 1), (X, WEIGHT, BIAS)),
    "conv2d stride 2": (Conv(3, 2, 1), lambda x, w, b: conv2d_reference(x, w, b, 2, 1), (X, WEIGHT, BIAS)),
    "conv2d 1x1": (Conv(1, 1, 0), lambda x, w, b: conv2d_reference(x, w, b, 1, 0), (X, WEIGHT_1X1, BIAS)),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_agree_with_numpy(either_mode, name):
    function, reference, arrays = CASES[name]
    inputs = [ms.Tensor(array, ms.float32) for array in arrays]

    class Case(nn.Cell):
        def construct(self, *tensors):
            return function(*tensors)

    expected = reference(*arrays)
    np.testing.assert_allclose(Case()(*inputs).asnumpy(), expected, rtol=2e-5, atol=2e-5)

    outward = GENERATOR.standard_normal(np.shape(expected))

    class Projection(nn.Cell):
        def construct(self, *tensors):
            return (function(*tensors) * ms.Tensor(outward, ms.float32)).sum()

    gradients = ms.grad(Projection(), grad_position=tuple(range(len(inputs))))(*inputs)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    for number, array in enumerate(arrays):
        direction, small = GENERATOR.standard_normal(array.shape), 1e-5
        ahead, behind = list(arrays), list(arrays)
        ahead[number], behind[number] = array + small * direction, array - small * direction
        slope = ((reference(*ahead) - reference(*behind)) * outward).sum() / (2 * small)
        found = (gradients[number].asnumpy().astype(np.float64) * direction).sum()
        assert found == pytest.approx(slope, rel=2e-3, abs=2e-3)


CELLS = {
    "Conv2d": lambda: mint.nn.Conv2d(4, 5, 3, padding=1),
    "AvgPool2d": lambda: mint.nn.AvgPool2d(kernel_size=2, stride=2),
    "GELU": lambda: mint.nn.GELU(),
    "LayerNorm": lambda: mint.nn.LayerNorm(6),
}


@pytest.mark.parametrize("name", CELLS)
def test_mint_cells_run_and_agree_with_numpy(either_mode, name):
    cell = CELLS[name]()
    result = cell(ms.Tensor(X, ms.float32)).asnumpy()
    if name == "Conv2d":
        expected = conv2d_reference(X, cell.weight.asnumpy(), cell.bias.asnumpy(), 1, 1)
    else:
        expected = {"AvgPool2d": CASES["avg_pool2d"], "GELU": CASES["gelu"], "LayerNorm": CASES["layer_norm"]}[name][1](
            X
        )
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_embedding_cell(either_mode):
    cell = mint.nn.Embedding(7, 3)
    result = cell(ms.Tensor([[1, 6], [0, 1]], ms.int32)).asnumpy()
    np.testing.assert_array_equal(result, cell.weight.asnumpy()[[[1, 6], [0, 1]]])


def test_dropout_keeps_the_mean_and_zeroes_the_share(either_mode):
    cell = mint.nn.Dropout(p=0.25).set_train()
    result = cell(ms.Tensor(np.ones((100, 100)), ms.float32)).asnumpy()
    assert (result == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert set(np.unique(result).round(4)) == {0.0, np.float32(1.3333)}
    cell.set_train(False)
    np.testing.assert_array_equal(cell(ms.Tensor(X, ms.float32)).asnumpy(), X.astype(np.float32))


def test_division_of_whole_numbers(either_mode):
    class Case(nn.Cell):
        def construct(self, x):
            return x / 2

    found = Case()(ms.Tensor([1, 2, 5], ms.int32))
    assert found.dtype == ms.float32 and found.asnumpy().tolist() == [0.5, 1.0, 2.5]


def test_nonzero():
    found = ms.Tensor([[0, 3], [5, 0]]).nonzero(as_tuple=True)
    assert [indices.asnumpy().tolist() for indices in found] == [[0, 1], [1, 0]]


def test_replacements_can_be_taken_back():
    class Owner:
        there = 1

    module = sys.modules[__name__]
    module.Owner = Owner
    replacements = Replacements({(__name__, "Owner"): {"there": 2, "absent": 3}})
    replacements.install()
    replacements.install()  # a second time changes nothing
    assert (Owner.there, Owner.absent) == (2, 3)
    assert [name.split(".")[-1] for name in replacements.names()] == ["absent", "there"]
    replacements.remove()
    assert Owner.there == 1 and not hasattr(Owner, "absent") and replacements.names() == []


def test_what_a_gpu_gets_is_in_place():
    """The same substitutes as on a CPU, below the operators in C++."""
    assert {"Conv2d.construct", "mindspore.mint.arange", "Tensor.nonzero"} < set(SUBSTITUTES.names())
    gpu = choose("GPU")
    assert gpu.graph_facts()["substitutes"] == SUBSTITUTES.names()
    assert gpu.adamw([]) is adam_fused and gpu.default_precision == "fp16"


class AdamStep(nn.Cell):
    """Parameters and both of their moments, moved once by gradients, each for itself."""

    def __init__(self, update, arrays):
        super().__init__()
        self.update = update
        self.parameters, self.moments1, self.moments2 = (
            ms.ParameterTuple([ms.Parameter(ms.Tensor(a, ms.float32), name=f"{kind}{i}") for i, a in enumerate(some)])
            for kind, some in zip("pmv", arrays, strict=True)
        )

    def construct(self, numbers, *gradients):
        return self.update(numbers, self.parameters, self.moments1, self.moments2, gradients)


@pytest.mark.parametrize("form", [adam_plain, adam_fused, pytest.param(adam_native, marks=NEEDS_ONEDNN_3)])
def test_every_form_of_adam_follows_its_formula(either_mode, form):
    """Loshchilov & Hutter 2019, algorithm 2; and with numbers that change nothing, not a bit changes."""
    generator = np.random.default_rng(0)
    shapes = ((5, 3), (300, 700), (1,))
    arrays = [[generator.random(shape).astype(np.float32) for shape in shapes] for _ in range(3)]
    gradients = [generator.standard_normal(shape) for shape in shapes]
    step = AdamStep(form, arrays)
    rate, beta1, beta2, epsilon, decay = values = (1e-2, 0.9, 0.99, 1e-8, 0.1)
    step(tuple(ms.Tensor(value, ms.float32) for value in values), *(ms.Tensor(g, ms.float32) for g in gradients))
    for i, g in enumerate(gradients):
        p, m, v = (arrays[kind][i].astype(np.float64) for kind in range(3))
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        p = p - rate * (m / (np.sqrt(v) + epsilon) + decay * p)
        for expected, found in zip((p, m, v), (step.parameters[i], step.moments1[i], step.moments2[i]), strict=True):
            np.testing.assert_allclose(found.asnumpy(), expected, rtol=2e-6, atol=1e-6)

    before = [tensor.asnumpy().copy() for tensor in step.get_parameters()]
    still = tuple(ms.Tensor(value, ms.float32) for value in (0.0, 1.0, 1.0, 1e-8, 0.1))
    step(still, *(ms.Tensor(np.zeros_like(g), ms.float32) for g in gradients))
    for tensor, kept in zip(step.get_parameters(), before, strict=True):
        np.testing.assert_array_equal(tensor.asnumpy(), kept)


HUNDRED_PADDED_STEPS = """
from mindone_ddpm.runtime.start import start
start("CPU", "graph", 0)
import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

class Padded(nn.Cell):
    def construct(self, x):
        return ops.square(mint.nn.functional.pad(x, (0, 1, 0, 1), mode="constant", value=0)).mean()

class Step(nn.Cell):
    def __init__(self):
        super().__init__()
        self.gradient = ops.grad(Padded())

    def construct(self, x):
        return self.gradient(x)

step, x = Step(), ms.Tensor(np.ones((32, 16, 16, 16)), ms.float32)
for _ in range(100):
    result = step(x).asnumpy()
print(result.sum())
"""


def test_the_gradient_of_padding_returns_every_time(tmp_path):
    """MindSpore's own stands still when it has been called some 17 times."""
    program = tmp_path / "padded.py"
    program.write_text(HUNDRED_PADDED_STEPS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(2 * 32 * 16 * 16 * 16 / (32 * 16 * 17 * 17), rel=1e-4)

"""The operators that round the factors of their products to bf16, against NumPy in float64: values and gradients."""

from __future__ import annotations

import json
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import NEEDS_ONEDNN_3, ROOT, run_program
from mindspore import mint, nn
from test_native import CONVOLUTIONS, attention_reference, convolution_reference
from test_operators import Around, cell_and_gradients

from mindone_ddpm.backends.cpu import native, operators
from mindone_ddpm.backends.cpu.compiler import num_threads
from mindone_ddpm.common import machine
from mindone_ddpm.models.precision import set_compute_precision

NEEDS_BF16 = pytest.mark.skipif(not machine.has_bf16(), reason="needs a CPU with instructions for bf16")
HALF_STEP = 2.0**-8  # the largest relative error of rounding to bf16


def rounded(array):
    """To bf16, of two nearest numbers the even one."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def value_and_gradients(function, arrays, outward):
    inputs = [ms.Tensor(array, ms.float32) for array in arrays]

    class Projection(nn.Cell):
        def construct(self, *tensors):
            return (function(*tensors) * ms.Tensor(outward, ms.float32)).sum()

    gradients = ms.grad(Projection(), grad_position=tuple(range(len(inputs))))(*inputs)
    return function(*inputs).asnumpy(), [gradient.asnumpy() for gradient in gradients]


def assert_close(found, expected, tolerance):
    """In units of the largest element."""
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def assert_bilinear(function, reference, arrays, outward, rounds=True):
    """Sums of products of two factors each: what the reference says of rounded factors, up to sums in float32.

    ``arrays`` are x, weights and perhaps a bias, which is not rounded. A gradient is a product with the rounded
    ``outward``, here of the reference's derivative along a direction, which is exact because it is linear.
    Where ``rounds`` is not set, the factors are as they were.
    """
    found, gradients = value_and_gradients(function, arrays, outward)
    x, weight, *bias = (array.astype(np.float64) for array in arrays)
    if rounds:
        x, weight, outward = rounded(x).astype(np.float64), rounded(weight).astype(np.float64), rounded(outward)
    assert_close(found, reference(x, weight, *bias), 3e-6)
    generator = np.random.default_rng(2)
    without = [np.zeros_like(b) for b in bias]
    for place, gradient in enumerate(gradients[:2]):
        for _ in range(3):
            direction = generator.standard_normal(arrays[place].shape)
            factors = (direction, weight) if place == 0 else (x, direction)
            slope = (reference(*factors, *without) * outward).sum()
            assert abs((gradient * direction).sum() - slope) <= 1e-5 * np.abs(gradient).max() * direction.size**0.5


@NEEDS_BF16
@NEEDS_ONEDNN_3
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, has_bias):
    """Those by tiles are computed in float32, unless the CPU multiplies matrices of bf16."""
    shape, weight_shape, *settings = CONVOLUTIONS[name]
    operator, settings_tensor = native.convolution(*settings, has_bias, native.BF16)
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(size) for size in (shape, weight_shape, weight_shape[:1])[: 2 + has_bias]]

    def reference(x, weight, bias=None):
        return convolution_reference(x, weight, bias, *settings)

    outward = generator.standard_normal(reference(*arrays).shape)

    def function(*tensors):
        return operator(*tensors, settings_tensor)

    tiles = shape[0] * -(-shape[2] // 2) * -(-shape[3] // 2)  # the smaller ones
    by_tiles = (name == "wide" or "tiles" in name) and tiles >= 64 * num_threads()
    assert_bilinear(function, reference, arrays, outward, not by_tiles or "amx_bf16" in machine.cpu_features())


@NEEDS_BF16
@NEEDS_ONEDNN_3
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(5, 3, 7), (2, 40, 64, 33), (1, 300, 128, 512)])
def test_linear(shape, has_bias):
    *before, inputs, outputs = shape
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(size) for size in ((*before, inputs), (outputs, inputs), (outputs,))]
    arrays = arrays[: 2 + has_bias]

    def function(*tensors):
        return operators.linear_in_bf16(*tensors)

    def reference(x, weight, bias=0.0):
        return x @ weight.T + bias

    outward = generator.standard_normal((*before, outputs))
    assert_bilinear(function, reference, arrays, outward)
    if has_bias:
        _, gradients = value_and_gradients(function, arrays, outward)
        assert_close(gradients[2], outward.reshape(-1, outputs).sum(0), 3e-6)  # a sum, not a product


@NEEDS_BF16
@NEEDS_ONEDNN_3
@pytest.mark.parametrize("shape", [(3, 1, 16, 16, 8), (2, 3, 300, 300, 64), (1, 2, 130, 77, 40)])
def test_attention(shape):
    samples, heads, queries, keys, width = shape
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal((samples, length, heads, width)) for length in (queries, keys, keys)]
    outward = generator.standard_normal(arrays[0].shape)
    scale = ms.Tensor([width**-0.5], ms.float32)

    def in_bf16(query, key, value):
        return native.attention_bf16(query, key, value, scale)[0]

    def in_float32(query, key, value):
        return native.attention(query, key, value, scale)[0]

    found, gradients = value_and_gradients(in_bf16, arrays, outward)
    exact, exact_gradients = value_and_gradients(in_float32, arrays, outward)
    assert_close(found, attention_reference(*arrays, width**-0.5), 4 * HALF_STEP)
    for gradient, without_rounding in zip(gradients, exact_gradients, strict=True):  # that one: test_native.py
        assert_close(gradient, without_rounding, 4 * HALF_STEP)
    if width > 16:
        assert np.abs(found - exact).max() > 0  # it does round


@NEEDS_BF16
@NEEDS_ONEDNN_3
def test_a_network_in_bf16_has_float32_between_its_layers(either_mode):
    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.convolution = mint.nn.Conv2d(3, 8, 3, padding=1)
            self.norm = mint.nn.GroupNorm(2, 8)
            self.linear = mint.nn.Linear(6, 5)

        def construct(self, x):
            return self.linear(self.norm(self.convolution(x)))

    network = Network()
    x = ms.Tensor(np.random.default_rng(0).standard_normal((2, 3, 6, 6)), ms.float32)
    before = network(x).asnumpy()
    in_bf16 = Network()
    ms.load_param_into_net(in_bf16, network.parameters_dict())
    set_compute_precision(in_bf16, "bf16")
    after = in_bf16(x)
    assert after.dtype == ms.float32
    assert_close(after.asnumpy(), before, 8 * HALF_STEP)
    assert all(parameter.dtype == ms.float32 for parameter in in_bf16.get_parameters())


@NEEDS_BF16
@NEEDS_ONEDNN_3
@pytest.mark.parametrize("kind", ["residual block", "attention"])
def test_whole_blocks_are_their_layers(kind, monkeypatch):
    """One operator rounds as ten do, forward and backward."""
    from mindone.diffusers.models.attention_processor import Attention
    from mindone.diffusers.models.resnet import ResnetBlock2D

    generator = np.random.default_rng(0)
    x, temb = (ms.Tensor(generator.standard_normal(shape), ms.float32) for shape in ((2, 32, 6, 6), (2, 6)))
    if kind == "attention":
        block = Attention(32, heads=1, dim_head=32, norm_num_groups=4, bias=True, residual_connection=True)
        inputs = (x,)
    else:
        block, inputs = ResnetBlock2D(in_channels=32, out_channels=48, temb_channels=6, groups=4), (x, temb)
    set_compute_precision(block.set_train(), "bf16")
    assert native.BF16 in block.operator.func

    whole, gradients = cell_and_gradients(Around(block), *inputs)
    monkeypatch.setattr(type(block), "operator", property(lambda block: None))
    by_layers, gradients_by_layers = cell_and_gradients(Around(block), *inputs)
    for one, other in zip((whole, *gradients), (by_layers, *gradients_by_layers), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())


def test_what_the_processor_says(monkeypatch):
    for flags, expected in (("flags : avx512f avx512_bf16", True), ("flags : amx_bf16", True), ("flags : avx2", False)):
        monkeypatch.setattr(machine, "cpu_features", lambda flags=flags: flags)
        assert machine.has_bf16() is expected


REFUSED = """
import sys
from mindone_ddpm.common import machine
machine.cpu_features = lambda: "flags : fpu sse2 avx2 fma"
from mindone_ddpm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_without_bf16(tmp_path, *arguments):
    program = tmp_path / "without.py"
    program.write_text(REFUSED)
    return subprocess.run(
        [sys.executable, str(program), *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )


def test_a_cpu_without_the_instructions_refuses_before_training(tmp_path):
    flags = ("--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--mixed_precision", "bf16")
    result = run_without_bf16(tmp_path, "train", *flags, "--output_dir", tmp_path / "run")
    assert result.returncode == 2
    assert "--mixed_precision bf16: this CPU has no kernels for it; use no or fp16" in result.stderr
    assert not (tmp_path / "run").exists()


@NEEDS_BF16
@NEEDS_ONEDNN_3
def test_training_and_sampling_in_bf16(tmp_path):
    """The loss is float32's up to rounding, and so are the images."""
    losses = {}
    for precision in ("no", "bf16"):
        run = tmp_path / precision
        flags = ("--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 8)
        rest = ("--max_train_steps", 3, "--logging_steps", 1, "--save_image_epochs", 0, "--report_to", "csv")
        result = run_program("train", *flags, *rest, "--mixed_precision", precision, "--output_dir", run)
        assert result.returncode == 0, result.stderr
        rows = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
        losses[precision] = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses["bf16"] != losses["no"]
    np.testing.assert_allclose(losses["bf16"], losses["no"], rtol=0.02)

    images = {}
    for dtype in ("float32", "bf16"):
        folder = tmp_path / f"samples-{dtype}"
        flags = ("--num_images", 4, "--num_inference_steps", 3, "--bit_depth", 16, "--output_dir", folder)
        result = run_program("sample", "--model", tmp_path / "no", *flags, "--dtype", dtype)
        assert result.returncode == 0, result.stderr
        import cv2

        files = sorted(path for path in folder.glob("*.png") if path.stem.isdigit())
        images[dtype] = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files]).astype(float)
    difference = np.abs(images["bf16"] - images["float32"]).mean() / 65535
    assert 0 < difference < 0.02

"""The operators in C++ against NumPy in float64, values and gradients, and what happens without them."""

from __future__ import annotations

import copy

import mindspore as ms
import numpy as np
import pytest
from conftest import NEEDS_ONEDNN_3, without_substitutes
from mindspore import mint, nn, ops

from mindone_ddpm.backends.cpu import compiler, fused, native, operators

pytestmark = [
    pytest.mark.skipif(compiler.find_compiler() is None, reason="needs a C++ compiler"),
    NEEDS_ONEDNN_3,
]

GENERATOR = np.random.default_rng(5)
START = GENERATOR.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers():
    """Whatever ran before, a test is given the same ones."""
    GENERATOR.bit_generator.state = START


def assert_close_to_reference(function, reference, arrays, tolerance=3e-6):
    """Value and, along random directions, gradients: in units of the largest element."""
    inputs = [ms.Tensor(array, ms.float32) for array in arrays]
    arrays = [array.astype(np.float32).astype(np.float64) for array in arrays]
    expected = reference(*arrays)
    found = function(*inputs).asnumpy()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()

    outward = GENERATOR.standard_normal(expected.shape).astype(np.float32)

    class Projection(nn.Cell):
        def construct(self, *tensors):
            return (function(*tensors) * ms.Tensor(outward)).sum()

    gradients = ms.grad(Projection(), grad_position=tuple(range(len(inputs))))(*inputs)
    for number, gradient in enumerate(gradients if isinstance(gradients, tuple) else (gradients,)):
        direction, small = GENERATOR.standard_normal(arrays[number].shape), 1e-5
        ahead, behind = list(arrays), list(arrays)
        ahead[number] = arrays[number] + small * direction
        behind[number] = arrays[number] - small * direction
        slope = ((reference(*ahead) - reference(*behind)) * outward).sum() / (2 * small)
        size = np.abs(gradient.asnumpy()).max() * np.sqrt(direction.size)
        assert abs((gradient.asnumpy() * direction).sum() - slope) <= 1e-5 * size + 1e-6


def convolution_reference(x, weight, bias, stride, padding, dilation, groups):
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    reach = [dilation[axis] * (weight.shape[axis + 2] - 1) + 1 for axis in (0, 1)]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    parts = zip(np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True)
    result = np.concatenate([np.tensordot(*part, ((1, 4, 5), (1, 2, 3))) for part in parts], 3).transpose(0, 3, 1, 2)
    return result if bias is None else result + bias[None, :, None, None]


CONVOLUTIONS = {
    "3x3": ((2, 5, 9, 8), (7, 5, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "1x1": ((2, 16, 8, 8), (3, 16, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "stride 2": ((3, 16, 8, 8), (16, 16, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "no padding": ((2, 4, 9, 9), (5, 4, 3, 3), (2, 2), (0, 0), (1, 1), 1),
    "dilated, not square": ((1, 3, 11, 9), (4, 3, 3, 5), (1, 2), (2, 1), (2, 1), 1),
    "groups": ((2, 6, 7, 7), (8, 3, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "one each": ((2, 8, 7, 7), (8, 1, 3, 3), (1, 1), (1, 1), (1, 1), 8),
    "wide": ((2, 192, 16, 16), (64, 192, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    # By tiles of 2 x 2 pixels, and of 4 x 4 where there are many: some over the edges, rows in parts, some samples
    # together, and an odd number of tiles.
    "tiles, odd sizes": ((2, 48, 15, 33), (80, 48, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "tiles, long rows": ((3, 48, 4, 130), (96, 48, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "tiles, small images": ((67, 64, 4, 4), (48, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "tiles, one row": ((18, 48, 1, 27), (64, 48, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "large tiles, odd sizes": ((5, 48, 15, 33), (80, 48, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "large tiles, long rows": ((5, 48, 6, 130), (96, 48, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "large tiles, small images": ((131, 64, 4, 4), (48, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "large tiles, one row": ((65, 48, 1, 9), (64, 48, 3, 3), (1, 1), (1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(either_mode, name, has_bias):
    shape, weight_shape, *settings = CONVOLUTIONS[name]
    operator, settings_tensor = native.convolution(*settings, has_bias)
    arrays = [GENERATOR.standard_normal(shape), GENERATOR.standard_normal(weight_shape)]
    if has_bias:
        arrays.append(GENERATOR.standard_normal(weight_shape[0]))

        def function(x, weight, bias):
            return operator(x, weight, bias, settings_tensor)

        def reference(x, weight, bias):
            return convolution_reference(x, weight, bias, *settings)

    else:

        def function(x, weight):
            return operator(x, weight, settings_tensor)

        def reference(x, weight):
            return convolution_reference(x, weight, None, *settings)

    assert_close_to_reference(function, reference, arrays)


def group_norm_reference(x, gamma, beta, groups, epsilon):
    parts = x.reshape(x.shape[0], groups, -1)
    normal = (parts - parts.mean(-1, keepdims=True)) / np.sqrt(parts.var(-1, keepdims=True) + epsilon)
    across = (1, -1) + (1,) * (x.ndim - 2)
    return normal.reshape(x.shape) * gamma.reshape(across) + beta.reshape(across)


@pytest.mark.parametrize(
    ("shape", "groups", "mean"), [((2, 6, 5, 7), 3, 0.0), ((3, 8, 11), 8, 30.0), ((1, 64, 80, 80), 1, 1.0)]
)
@pytest.mark.parametrize("activates", [0.0, 1.0], ids=["plain", "activated"])
def test_group_norm(either_mode, shape, groups, mean, activates):
    def function(x, gamma, beta):
        return native.group_norm(x, gamma, beta, ms.Tensor([groups, 1e-5, activates], ms.float32))[0]

    def reference(x, gamma, beta):
        normal = group_norm_reference(x, gamma, beta, groups, 1e-5)
        return normal / (1 + np.exp(-normal)) if activates else normal

    arrays = [
        GENERATOR.normal(mean, 1.0, shape),
        GENERATOR.standard_normal(shape[1]),
        GENERATOR.standard_normal(shape[1]),
    ]
    assert_close_to_reference(function, reference, arrays, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 5000), (4, 8, 16, 16)])
def test_silu(either_mode, shape):
    def function(x):
        return native.silu(x)

    assert_close_to_reference(function, lambda x: x / (1 + np.exp(-x)), [GENERATOR.normal(0, 4, shape)])


def test_silu_at_its_ends():
    values = np.array([-1e30, -200, -87.5, -1e-30, 0, 1e-30, 87.5, 200, 1e30, np.inf], np.float32)
    found = native.silu(ms.Tensor(values)).asnumpy()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float64) / (1 + np.exp(-values.astype(np.float64)))
    np.testing.assert_allclose(found[2:], expected[2:], rtol=1e-6)
    np.testing.assert_allclose(found[1], 0, atol=1e-30)
    assert np.isnan(native.silu(ms.Tensor([np.nan], ms.float32)).asnumpy()).all()


def attention_reference(query, key, value, scale):
    query, key, value = (array.swapaxes(1, 2) for array in (query, key, value))
    scores = scale * query @ key.swapaxes(2, 3)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return (shares / shares.sum(-1, keepdims=True) @ value).swapaxes(1, 2)


@pytest.mark.parametrize(
    "shape", [(3, 1, 16, 16, 8), (1, 2, 40, 33, 16), (2, 3, 300, 300, 8), (1, 2, 130, 77, 40), (2, 4, 3, 1, 3)]
)
def test_attention(either_mode, shape):
    samples, heads, queries, keys, width = shape
    scale = 0.7

    def function(query, key, value):
        return native.attention(query, key, value, ms.Tensor([scale], ms.float32))[0]

    arrays = [GENERATOR.standard_normal((samples, length, heads, width)) for length in (queries, keys, keys)]
    assert_close_to_reference(function, lambda q, k, v: attention_reference(q, k, v, scale), arrays, tolerance=1e-5)


def test_attention_of_large_scores_stays_finite():
    query = GENERATOR.normal(0, 100, (1, 20, 2, 8))
    query *= 300 / np.linalg.norm(query, axis=-1, keepdims=True)
    query = ms.Tensor(query, ms.float32)
    found = native.attention(query, query, query, ms.Tensor([1.0], ms.float32))[0].asnumpy()
    np.testing.assert_allclose(found, query.asnumpy(), rtol=1e-4)  # each finds itself


@pytest.mark.parametrize("shape", [(3, 8), (2, 50, 100), (2, 3, 5, 7), (300, 320)])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_layer_norm(either_mode, shape, mean):
    width = shape[-1]

    def function(x, gamma, beta):
        return mint.nn.functional.layer_norm(x, (width,), gamma, beta, 1e-5)

    def reference(x, gamma, beta):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta

    assert mint.nn.functional.layer_norm is operators.layer_norm
    arrays = [GENERATOR.normal(mean, 1.0, shape), GENERATOR.normal(1, 0.3, width), GENERATOR.standard_normal(width)]
    assert_close_to_reference(function, reference, arrays, tolerance=1e-5)


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(5, 3, 7), (2, 40, 64, 33), (2, 3, 4, 5, 6), (1, 300, 128, 512)])
def test_linear(either_mode, shape, has_bias):
    *before, inputs, outputs = shape

    def function(x, weight, *bias):
        return operators.linear(x, weight, *bias)

    def reference(x, weight, *bias):
        return x @ weight.T + (bias[0] if bias else 0.0)

    sizes = [(*before, inputs), (outputs, inputs), (outputs,)]
    arrays = [GENERATOR.standard_normal(size) for size in sizes[: 2 + has_bias]]
    assert_close_to_reference(function, reference, arrays)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 16, 8, 8), (3, 4, 90, 100)])
def test_numbers_added_to_channels(either_mode, shape):
    def function(x, t):
        return native.add_to_channels(x, t)

    def reference(x, t):
        return x + t.reshape(*t.shape, *(1,) * (x.ndim - 2))

    arrays = [GENERATOR.standard_normal(shape), GENERATOR.standard_normal(shape[:2])]
    assert_close_to_reference(function, reference, arrays)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 16, 16), (3, 128, 100), (4, 1, 17)])
def test_transpose(either_mode, shape):
    def function(x):
        return native.transpose(x)

    arrays = [GENERATOR.standard_normal(shape)]
    assert_close_to_reference(function, lambda x: x.swapaxes(1, 2), arrays, tolerance=0)


class Both(nn.Cell):
    def construct(self, first, second, factor, finite):
        squares, all_finite = fused.measure_native((first, second))
        return squares, all_finite, fused.rescale_native((first, second), factor, finite)


def test_all_gradients_at_once(either_mode):
    first, second = GENERATOR.standard_normal((300, 700)), GENERATOR.standard_normal(3)
    tensors = [ms.Tensor(array, ms.float32) for array in (first, second)]
    squares, finite, scaled = Both()(*tensors, ms.Tensor(0.25, ms.float32), ms.Tensor(True))
    assert squares.asnumpy() == pytest.approx((first**2).sum() + (second**2).sum(), rel=1e-6) and bool(finite)
    for found, tensor in zip(scaled, tensors, strict=True):
        np.testing.assert_array_equal(found.asnumpy(), tensor.asnumpy() * np.float32(0.25))

    for bad in (np.nan, np.inf, -np.inf):
        second[1] = bad
        squares, finite, scaled = Both()(
            tensors[0], ms.Tensor(second, ms.float32), ms.Tensor(0.25, ms.float32), ms.Tensor(False)
        )
        assert not bool(finite)
        assert all((found.asnumpy() == 0).all() for found in scaled)


class Following(nn.Cell):
    """Parameters are moved by MindSpore, then averages after them by the operator, then both are read."""

    def __init__(self, arrays):
        super().__init__()
        named = [ms.Parameter(ms.Tensor(array, ms.float32), name=f"p{i}") for i, array in enumerate(arrays)]
        self.parameters = ms.ParameterTuple(named)
        self.averages = self.parameters.clone(prefix="average", init="zeros")

    def construct(self, share, change):
        total = ops.addn((self.averages[0].sum(), self.parameters[0].sum()))
        for parameter in self.parameters:
            share = ops.depend(share, ops.assign_add(parameter, change * ops.ones_like(parameter)))
        moved = fused.move_averages_native(share, self.averages, self.parameters)
        return total, ops.depend(self.averages[1] + self.parameters[1], moved)


def test_averages_are_moved_in_place_and_in_order(either_mode):
    """What the graph reads before sees the old values, and what it reads after sees the new."""
    arrays = [GENERATOR.standard_normal(size) for size in ((3, 4), (7,), (300, 700))]
    cell = Following(arrays)
    parameters, averages = arrays, [np.zeros_like(array) for array in arrays]
    for share, change in ((0.25, 1.0), (0.0, 2.0), (1.0, -0.5)):
        expected = averages[0].sum() + parameters[0].sum()
        total, after = cell(ms.Tensor(share, ms.float32), ms.Tensor(change, ms.float32))
        assert total.asnumpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        parameters = [value + change for value in parameters]
        averages = [(1 - share) * mean + share * value for mean, value in zip(averages, parameters, strict=True)]
        for found, mean in zip(cell.averages, averages, strict=True):
            np.testing.assert_allclose(found.asnumpy(), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after.asnumpy(), averages[1] + parameters[1], rtol=1e-5, atol=1e-6)


def test_a_share_of_nothing_touches_nothing(either_mode):
    """Even where the parameters are not finite."""
    cell = Following([np.full((2, 3), np.nan), np.full(3, np.inf)])
    cell(ms.Tensor(0.0, ms.float32), ms.Tensor(0.0, ms.float32))
    assert all((average.asnumpy() == 0).all() for average in cell.averages)


def test_the_cells_of_a_network_use_them_in_float32_only(either_mode):
    convolution = mint.nn.Conv2d(4, 6, 3, stride=2, padding=1)
    assert convolution.native is not None
    x = GENERATOR.standard_normal((2, 4, 8, 8)).astype(np.float32)
    weight, bias = convolution.weight.asnumpy(), convolution.bias.asnumpy()
    expected = convolution_reference(x, weight, bias, (2, 2), (1, 1), (1, 1), 1)
    np.testing.assert_allclose(convolution(ms.Tensor(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    half = mint.nn.SiLU()(ms.Tensor(x, ms.float16))
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), x / (1 + np.exp(-x)), rtol=2e-3, atol=1e-3)
    norm = mint.nn.GroupNorm(2, 4)
    np.testing.assert_allclose(
        norm(ms.Tensor(x)).asnumpy(), group_norm_reference(x, np.ones(4), np.zeros(4), 2, 1e-5), rtol=1e-4, atol=1e-5
    )


def test_shapes_that_do_not_fit_are_errors():
    """As MindSpore's own operators have it; read beyond their end they would give numbers."""
    x = ms.Tensor(np.ones((2, 8, 6)), ms.float32)
    query = ms.Tensor(np.ones((2, 4, 1, 6)), ms.float32)
    other = ms.Tensor(np.ones((4, 4, 1, 6)), ms.float32)
    from mindone.diffusers.models.attention_processor import Attention
    from mindone.diffusers.models.resnet import ResnetBlock2D

    images, embedding = ops.ones((2, 4, 3, 3)), ops.ones((2, 6))
    block = ResnetBlock2D(in_channels=4, temb_channels=6, groups=2)
    attention = Attention(4, heads=1, dim_head=4, norm_num_groups=2, bias=True, residual_connection=True)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for wrong in (
        lambda: mint.nn.Linear(7, 4)(x),
        lambda: mint.nn.GroupNorm(2, 4)(x),
        lambda: mint.nn.LayerNorm(4)(x),
        lambda: native.attention(query, other, other, ms.Tensor([1.0], ms.float32)),
        lambda: native.add_to_channels(x, x[:1, :, 0]),
        lambda: block(images[:, :1], embedding),
        lambda: block(images, ops.ones((3, 6))),
        lambda: block(images, ops.ones((2, 5))),
        lambda: attention(images[:, :2]),
    ):
        with pytest.raises(ValueError, match="given"):
            wrong()


def test_a_network_can_be_copied(either_mode):
    from mindone.diffusers.models.resnet import ResnetBlock2D

    block = ResnetBlock2D(in_channels=4, temb_channels=None, groups=2)
    images = ms.Tensor(GENERATOR.standard_normal((2, 4, 6, 6)), ms.float32)
    np.testing.assert_array_equal(copy.deepcopy(block)(images, None).asnumpy(), block(images, None).asnumpy())


def test_an_activation_that_is_exchanged_is_the_one_that_is_used(either_mode):
    from mindone.diffusers.models.resnet import ResnetBlock2D

    block = ResnetBlock2D(in_channels=4, temb_channels=None, groups=2)
    later = ResnetBlock2D(in_channels=4, temb_channels=None, groups=2, non_linearity="gelu")
    ms.load_param_into_net(later, block.parameters_dict())
    block.nonlinearity = mint.nn.GELU()
    images = ms.Tensor(GENERATOR.standard_normal((2, 4, 6, 6)), ms.float32)
    np.testing.assert_array_equal(block(images, None).asnumpy(), later(images, None).asnumpy())


def test_attention_to_texts_of_another_batch_is_mindones():
    """mindone lets the texts say how large the batch is; what is added to the images then does not fit, and says so."""
    from mindone.diffusers.models.attention_processor import Attention

    ms.set_context(mode=ms.PYNATIVE_MODE)
    states = ms.Tensor(GENERATOR.standard_normal((2, 8, 8)), ms.float32)
    texts = ms.Tensor(GENERATOR.standard_normal((4, 5, 6)), ms.float32)
    attention = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4)
    found = attention(states, texts).asnumpy()
    with without_substitutes():
        expected = attention(states, texts).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_two_convolutions_that_differ_in_their_settings_only(either_mode):
    x = ms.Tensor(GENERATOR.standard_normal((1, 4, 9, 9)), ms.float32)
    sizes = []
    for stride, padding in ((1, 1), (2, 1), (1, 0), (2, 0)):
        sizes.append(mint.nn.Conv2d(4, 4, 3, stride=stride, padding=padding)(x).shape[2])
    assert sizes == [9, 5, 7, 4]

"""The cells of mindspore.mint and mindone over the operators in C++: what they compute is what the originals do."""

from __future__ import annotations

import copy

import mindspore as ms
import numpy as np
import pytest
from conftest import without_substitutes
from mindspore import mint, nn
from test_native import convolution_reference, group_norm_reference

from mindone_ddpm.backends import substitutes
from mindone_ddpm.backends.cpu import compiler, operators
from mindone_ddpm.backends.cpu.operators import OPERATORS
from mindone_ddpm.backends.substitutes import SUBSTITUTES

GENERATOR = np.random.default_rng(5)
START = GENERATOR.bit_generator.state

pytestmark = pytest.mark.skipif(compiler.find_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def same_numbers():
    """Whatever ran before, a test is given the same ones."""
    GENERATOR.bit_generator.state = START


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


# --- mindone's cells ------------------------------------------------------------------------------------------------


def cell_and_gradients(cell, *inputs):
    """The output, and the gradients of a projection of it: to the inputs and to all parameters."""
    output = cell(*inputs)
    direction = ms.Tensor(np.random.default_rng(1).standard_normal(output.shape), ms.float32)

    def projection(*tensors):
        return (cell(*tensors) * direction).sum()

    to_inputs, to_weights = ms.grad(projection, tuple(range(len(inputs))), cell.trainable_params())(*inputs)
    gradients = [*(to_inputs if isinstance(to_inputs, tuple) else (to_inputs,)), *to_weights]
    return output.asnumpy(), [gradient.asnumpy() for gradient in gradients]


def assert_same_as_mindones(owner, method, network, inputs):
    """Outputs and gradients of ``network()`` with the substitute for a method of ``owner``, and with the original."""
    found, found_gradients = cell_and_gradients(network(), *inputs)
    substitute = getattr(owner, method)
    setattr(owner, method, {**SUBSTITUTES.originals, **OPERATORS.originals}[(owner, method)])
    try:
        expected, expected_gradients = cell_and_gradients(network(), *inputs)
    finally:
        setattr(owner, method, substitute)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len(found_gradients) == len(expected_gradients)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"out_channels": 8, "output_scale_factor": 2**0.5},
        {"time_embedding_norm": "scale_shift", "skip_time_act": True},
        {"temb_channels": None},
        {"non_linearity": "gelu"},
        {"up": True},
        {"down": True},
    ],
    ids=str,
)
def test_residual_blocks_are_mindones(either_mode, settings):
    """The block as it is compiled here, against mindone's own construct over the same operators."""
    from mindone.diffusers.models.resnet import ResnetBlock2D

    assert ResnetBlock2D.construct is substitutes.resnet_block_construct
    assert ResnetBlock2D(in_channels=4, temb_channels=6, groups=2).activates_in_norm
    block = ResnetBlock2D(in_channels=4, **{"temb_channels": 6, "groups": 2, **settings})
    generator = np.random.default_rng(0)
    inputs = [ms.Tensor(generator.standard_normal((2, 4, 6, 6)), ms.float32)]
    if block.time_emb_proj is not None:
        inputs.append(ms.Tensor(generator.standard_normal((2, 6)), ms.float32))

    class Block(nn.Cell):
        def __init__(self):
            super().__init__()
            self.block = block

        def construct(self, images, temb=None):
            return self.block(images, temb)

    assert_same_as_mindones(ResnetBlock2D, "construct", Block, inputs)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"norm_num_groups": 4, "bias": True, "residual_connection": True, "rescale_output_factor": 2.0}, (2, 8, 3, 5)),
        ({}, (2, 7, 8)),
        ({"cross_attention_dim": 6, "cross_attention_norm": "layer_norm"}, (2, 7, 8)),
        ({"norm_num_groups": 2, "qk_norm": "layer_norm"}, (2, 7, 8)),
    ],
)
def test_attention_layers_are_mindones(either_mode, settings, shape):
    """The processor as it is compiled here, against mindone's own over the same operators."""
    from mindone.diffusers.models.attention_processor import Attention, AttnProcessor2_0

    assert AttnProcessor2_0.__call__ is operators.attention_construct
    attention = Attention(query_dim=8, heads=2, dim_head=4, **settings)
    generator = np.random.default_rng(0)
    inputs = [ms.Tensor(generator.standard_normal(shape), ms.float32)]
    if "cross_attention_dim" in settings:
        inputs.append(ms.Tensor(generator.standard_normal((2, 5, 6)), ms.float32))

    class Layer(nn.Cell):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def construct(self, hidden_states, encoder_hidden_states=None):
            return self.attention(hidden_states, encoder_hidden_states)

    assert_same_as_mindones(AttnProcessor2_0, "__call__", Layer, inputs)


def test_attention_layers_with_a_mask(either_mode):
    """mindone's own has no way to repeat the mask on a processor."""
    from mindone.diffusers.models.attention_processor import Attention

    attention = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4)
    generator = np.random.default_rng(0)
    states, source = generator.standard_normal((2, 7, 8)), generator.standard_normal((2, 5, 6))
    mask = np.where(generator.random((2, 1, 5)) < 0.5, 0.0, -1e4)
    mask[:, :, 2] = 0.0
    found = attention(*(ms.Tensor(array, ms.float32) for array in (states, source)),
                      attention_mask=ms.Tensor(mask, ms.float32)).asnumpy()  # fmt: skip

    def heads(layer, array):
        return (array @ layer.weight.asnumpy().T).reshape(2, -1, 2, 4).swapaxes(1, 2)

    query, key, value = heads(attention.to_q, states), heads(attention.to_k, source), heads(attention.to_v, source)
    scores = attention.scale * query @ key.swapaxes(2, 3) + mask[:, None]
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    looked = (shares / shares.sum(-1, keepdims=True) @ value).swapaxes(1, 2).reshape(2, 7, 8)
    last = attention.to_out[0]
    np.testing.assert_allclose(found, looked @ last.weight.asnumpy().T + last.bias.asnumpy(), rtol=1e-4, atol=1e-5)


def test_attention_with_a_mask_of_truths(either_mode):
    """True where a key may be looked at; a query that may look at none looks at all alike, as in mindone."""
    from mindone.diffusers.models.attention_processor import Attention

    attention = Attention(query_dim=8, heads=2, dim_head=4)
    generator = np.random.default_rng(0)
    query, key, value = (generator.standard_normal((2, 5, 4)).astype(np.float32) for _ in range(3))
    mask = generator.random((2, 5, 5)) < 0.6
    mask[0, 2] = False

    class Masked(nn.Cell):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def construct(self, *tensors):
            return self.attention.math_attention_op(*tensors)

    found = Masked()(*(ms.Tensor(array) for array in (query, key, value, mask))).asnumpy()
    scores = np.where(mask, attention.scale * query @ key.swapaxes(1, 2), -np.inf)
    scores[0, 2] = 0.0
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(found, shares / shares.sum(-1, keepdims=True) @ value, rtol=1e-4, atol=1e-5)


def test_cells_made_before_the_substitutes_work_on(either_mode):
    from mindone.diffusers.models.resnet import ResnetBlock2D

    with without_substitutes():
        block = ResnetBlock2D(in_channels=4, temb_channels=None, groups=2)
    images = ms.Tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 6)), ms.float32)
    again = ResnetBlock2D(in_channels=4, temb_channels=None, groups=2)
    ms.load_param_into_net(again, block.parameters_dict())
    np.testing.assert_allclose(block(images, None).asnumpy(), again(images, None).asnumpy(), rtol=1e-4, atol=1e-5)

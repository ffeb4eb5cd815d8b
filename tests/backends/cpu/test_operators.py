"""mindone's cells over the operators in C++: the same values and gradients as mindone's own."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from conftest import NEEDS_ONEDNN_3, without_substitutes
from mindspore import nn

from mindone_ddpm.backends.cpu import blocks, operators
from mindone_ddpm.backends.cpu.operators import OPERATORS
from mindone_ddpm.backends.substitutes import SUBSTITUTES

pytestmark = NEEDS_ONEDNN_3

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


class Around(nn.Cell):
    """A network of one block, which is then compiled as a part of it."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def construct(self, images, temb=None):
        return self.block(images, temb)


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
    ("settings", "training"),
    [
        ({}, True),
        ({"out_channels": 8}, True),
        ({"out_channels": 8}, False),
        ({"out_channels": 8, "temb_channels": None}, True),
        ({"temb_channels": None}, False),
    ],
    ids=str,
)
def test_usual_residual_blocks_are_one_operator(either_mode, settings, training):
    """Against mindone's own construct over the same operators. Without training the gradient computes all again."""
    from mindone.diffusers.models.resnet import ResnetBlock2D

    block = ResnetBlock2D(in_channels=4, **{"temb_channels": 6, "groups": 2, **settings}).set_train(training)
    assert block.operator is not None
    check_residual_block(block)


@pytest.mark.parametrize(
    "settings",
    [
        {"out_channels": 8, "output_scale_factor": 2**0.5},
        {"time_embedding_norm": "scale_shift", "skip_time_act": True},
        {"conv_2d_out_channels": 8},
        {"non_linearity": "gelu"},
        {"dropout": 0.5},
        {"up": True},
        {"down": True},
    ],
    ids=str,
)
def test_unusual_residual_blocks(either_mode, settings):
    """The block as it is compiled here, against mindone's own construct over the same operators."""
    from mindone.diffusers.models.resnet import ResnetBlock2D

    assert ResnetBlock2D.construct is blocks.resnet_block_construct
    block = ResnetBlock2D(in_channels=4, **{"temb_channels": 6, "groups": 2, **settings})
    assert block.set_train().operator is None
    check_residual_block(block.set_train(False))  # without dropout


def check_residual_block(block):
    from mindone.diffusers.models.resnet import ResnetBlock2D

    generator = np.random.default_rng(0)
    inputs = [ms.Tensor(generator.standard_normal((2, 4, 6, 6)), ms.float32)]
    if block.time_emb_proj is not None:
        inputs.append(ms.Tensor(generator.standard_normal((2, 6)), ms.float32))

    assert_same_as_mindones(ResnetBlock2D, "construct", lambda: Around(block), inputs)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"norm_num_groups": 4, "bias": True, "residual_connection": True, "rescale_output_factor": 2.0}, (2, 8, 3, 5)),
        ({"norm_num_groups": 4, "bias": True, "residual_connection": True}, (2, 8, 3, 5)),
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
    assert (attention.operator is not None) == (len(shape) == 4 and "rescale_output_factor" not in settings)
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

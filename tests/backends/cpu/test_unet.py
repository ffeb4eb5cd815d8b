"""A whole UNet2DModel as one operator in C++: the same values and gradients as cell by cell."""

from __future__ import annotations

import contextlib
import copy

import mindspore as ms
import numpy as np
import pytest
from conftest import NEEDS_ONEDNN_3
from mindspore import mint, nn, ops
from test_bf16 import NEEDS_BF16

from mindone_ddpm.backends.cpu import native, unet
from mindone_ddpm.backends.cpu.compiler import num_threads
from mindone_ddpm.models.precision import set_compute_precision
from mindone_ddpm.models.unet import checkpoint_gradients
from mindone_ddpm.sampling.generate import evaluating

pytestmark = NEEDS_ONEDNN_3

GENERATOR = np.random.default_rng(0)
IMAGES = ms.Tensor(GENERATOR.standard_normal((2, 3, 8, 12)), ms.float32)
TIMES = ms.Tensor([3, 700], ms.int32)
LABELS = ms.Tensor([1, 4], ms.int32)
EMBEDDINGS = ms.Tensor(GENERATOR.standard_normal((2, 32)), ms.float32)


def make_unet(**settings):
    from mindone.diffusers import UNet2DModel

    usual = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    made = UNet2DModel(**{**usual, **settings})
    for parameter in made.get_parameters():  # biases and norms too
        values = np.random.default_rng(parameter.size).standard_normal(parameter.shape)
        parameter.set_data(parameter + ms.Tensor(0.1 * values, ms.float32))
    return made


class Around(nn.Cell):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def construct(self, images, times):
        return self.network(images, times)[0]


class Projected(nn.Cell):
    """A sum over a UNet's output, weighted at random."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.direction = ms.Tensor(np.random.default_rng(1).standard_normal(IMAGES.shape), ms.float32)

    def construct(self, images, times, *labels):
        return (self.network(images, times, *labels)[0] * self.direction).sum()


def value_and_gradients(network, *inputs):
    """The output, and the gradients of a sum of it: to the images and to all weights, by their names."""
    names = ["images", *(name for name, _ in network.parameters_and_names())]
    gradient = ms.grad(Projected(network), 0, ms.ParameterTuple(network.trainable_params()))
    to_images, to_weights = gradient(*inputs)
    arrays = [one.asnumpy() for one in (network(*inputs)[0], to_images, *to_weights)]
    return dict(zip(["output", *names], arrays, strict=True))


def by_cells(monkeypatch, network, *inputs):
    with monkeypatch.context() as patch:
        patch.setattr(type(network), "operator", property(lambda network: None))
        return value_and_gradients(network, *inputs)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    largest = max(np.abs(gradient).max() for name, gradient in expected.items() if name != "output")
    for name, one in found.items():
        # A bias of keys has no effect: its gradient is what is left by rounding.
        atol = 1e-6 * (largest if name.endswith("to_k.bias") else np.abs(expected[name]).max())
        np.testing.assert_allclose(one, expected[name], rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_class_embeds": 5, "downsample_padding": 0},
        {"mid_block_type": None, "layers_per_block": 2},
        {
            "block_out_channels": (8, 16, 12),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "attention_head_dim": 5,
            "class_embed_type": "identity",
        },
        {
            "add_attention": False,
            "flip_sin_to_cos": False,
            "time_embedding_type": "learned",
            "num_train_timesteps": 999,
        },
    ],
    ids=str,
)
def test_a_whole_unet_is_its_cells(either_mode, monkeypatch, settings):
    """Without training nothing is kept, and a gradient computes all again."""
    network = make_unet(**settings)
    labels = {"num_class_embeds": (LABELS,), "class_embed_type": (EMBEDDINGS,)}
    inputs = (IMAGES, TIMES, *(label for name in settings for label in labels.get(name, ())))
    expected = by_cells(monkeypatch, network, *inputs)
    for training in (True, False):
        network.set_train(training)
        assert network.operator.keeps == training
        assert_same(value_and_gradients(network, *inputs), expected)


def test_one_time_for_all_images(either_mode):
    network = make_unet().set_train(False)
    each = network(IMAGES, ms.Tensor([7, 7], ms.int32))[0].asnumpy()
    for time in (7, ms.Tensor(7, ms.int32), ms.Tensor([7], ms.int32)):
        np.testing.assert_array_equal(network(IMAGES, time, return_dict=True).sample.asnumpy(), each)


@NEEDS_BF16
def test_in_bf16(monkeypatch):
    network = make_unet().set_train()
    exact = copy.deepcopy(network)(IMAGES, TIMES)[0].asnumpy()
    set_compute_precision(network, "bf16")
    assert network.operator is not None
    found, expected = value_and_gradients(network, IMAGES, TIMES), by_cells(monkeypatch, network, IMAGES, TIMES)
    assert_same(found, expected)
    assert 1e-4 < np.abs(found["output"] - exact).max() / np.abs(exact).max() < 0.05


def recompute(network):
    checkpoint_gradients(network)


def recompute_as_mindspore_does(network):
    network.mid_block.recompute()


def hook(network):
    def unchanged(cell, inputs, output):
        return output

    network.mid_block.register_forward_hook(unchanged)


def freeze_one(network):
    network.conv_out.bias.requires_grad = False


def exchange_layer(network):
    network.conv_act = mint.nn.GELU()


def exchange_attention(network):
    class Other(type(network.mid_block.attentions[0])):
        def construct(self, hidden_states, temb=None):
            return hidden_states

    network.mid_block.attentions[0].__class__ = Other


def train_in_half_precision(network):
    set_compute_precision(network, "fp16")


def add_adapters(network):
    linear = network.mid_block.attentions[0].to_q
    linear.__class__ = type("Adapted", (type(linear),), {})


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"dropout": 0.5}, None),
        ({"resnet_time_scale_shift": "scale_shift"}, None),
        ({"center_input_sample": True}, None),
        ({"downsample_type": "resnet", "down_block_types": ("AttnDownBlock2D", "DownBlock2D")}, None),
        ({"act_fn": "gelu"}, None),
        ({}, recompute),
        ({}, freeze_one),
        ({}, exchange_layer),
        ({}, exchange_attention),
        ({}, recompute_as_mindspore_does),
        ({}, hook),
        ({}, train_in_half_precision),
        ({}, add_adapters),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_unusual_unet_is_computed_cell_by_cell(settings, change):
    network = make_unet(**settings).set_train()
    if change is not None:
        change(network)
    assert network.operator is None
    assert np.isfinite(network(IMAGES, TIMES)[0].asnumpy()).all()


def test_frozen_weights_are_no_matter_without_training():
    network = make_unet().set_train(False)
    network.conv_in.weight.requires_grad = False
    assert network.operator is not None


def test_what_does_not_fit_is_an_error(either_mode):
    network = make_unet().set_train(False)
    for images in (IMAGES[:, :2], IMAGES[:, :, :7], IMAGES[0]):
        with pytest.raises(ValueError, match="does not fit"):
            network(images, TIMES)
    with pytest.raises(ValueError, match="class_embedding"):
        network(IMAGES, TIMES, LABELS)
    with pytest.raises(ValueError, match="class_labels"):
        make_unet(num_class_embeds=5)(IMAGES, TIMES)


def test_a_unet_is_compiled_alone_and_then_as_a_part():
    """As in a notebook that samples, trains, and samples."""
    network = make_unet().set_train(False)
    before = network(IMAGES, TIMES)[0].asnumpy()
    value_and_gradients(network.set_train(), IMAGES, TIMES)
    np.testing.assert_array_equal(network.set_train(False)(IMAGES, TIMES)[0].asnumpy(), before)


def test_two_unets_of_one_kind_in_one_network():
    """They share their operator, and nothing else."""
    networks = [make_unet().set_train(), make_unet(norm_num_groups=4).set_train()]
    ops.assign(networks[1].conv_out.bias, networks[1].conv_out.bias + 1.0)

    class Both(nn.Cell):
        def __init__(self):
            super().__init__()
            self.first, self.second = networks

        def construct(self, images, times):
            return (self.second(self.first(images, times)[0], times)[0],)

    found = Both()(IMAGES, TIMES)[0].asnumpy()
    assert networks[0].operator is networks[1].operator
    between = networks[0](IMAGES, TIMES)[0]
    np.testing.assert_array_equal(found, networks[1](between, TIMES)[0].asnumpy())


def test_a_time_embedding_in_half_precision():
    network = make_unet().set_train(False)
    expected = network(IMAGES, TIMES)[0].asnumpy()
    set_compute_precision(network.time_embedding, "fp16")
    assert network.operator is not None
    np.testing.assert_allclose(Around(network)(IMAGES, TIMES).asnumpy(), expected, atol=0.01)


def test_copies_compute_with_their_own_weights(either_mode):
    network = make_unet().set_train(False)
    before = network(IMAGES, TIMES)[0].asnumpy()
    copied = copy.deepcopy(network)
    ops.assign(network.conv_out.bias, network.conv_out.bias + 1.0)
    np.testing.assert_array_equal(copied(IMAGES, TIMES)[0].asnumpy(), before)
    assert np.abs(network(IMAGES, TIMES)[0].asnumpy() - before).min() > 0.5


def test_without_the_images_gradient_its_convolution_is_not_computed():
    """The last of the gradients is an operator of its own: a training does not pay for it."""
    network = make_unet().set_train()
    gradient = ms.grad(Projected(network), None, ms.ParameterTuple(network.trainable_params()))
    gradient(IMAGES, TIMES)[0].asnumpy()
    native.times()
    gradient(IMAGES, TIMES)[0].asnumpy()
    calls = native.times()
    assert calls["conv2d_to_input"][0] == calls["conv2d"][0] - 1


def test_without_a_gradient_little_memory_is_needed():
    """Skips, two buffers, and one block's own: less than a quarter of what training keeps."""
    network = make_unet(layers_per_block=3, block_out_channels=(32, 64), sample_size=32)
    rows = tuple(row.numbers for row in unet.rows_of(network.set_train()))
    shapes = ((4, 3, 32, 32), (4, 128), (len(rows), unet.COLUMNS), *(w.shape for w in network.operator_weights))
    plan = network.operator.plan.asnumpy()
    kept, working, _, result = unet.sizes(plan, True, shapes)
    nothing, working_once, _, _ = unet.sizes(plan, False, shapes)
    assert nothing == 0 and result == (4, 3, 32, 32)
    assert working_once < (kept + working) / 4


def test_weights_are_laid_out_once_while_they_are_held():
    """And anew for the next time: they may have changed. One that lies where another was is noticed at any time."""
    network = make_unet(block_out_channels=(32, 64)).set_train(False)
    expected = network(IMAGES, TIMES)[0].asnumpy()
    native.times()

    def results(held):
        with native.held_weights() if held else contextlib.nullcontext():
            found = [network(IMAGES, TIMES)[0].asnumpy() for _ in range(3)]
        for one in found[1:]:
            np.testing.assert_array_equal(one, found[0])
        return found[0], native.times().get("lay_out_weights", (0, 0.0))[0]

    convolutions = sum(row.numbers[0] == unet.CONVOLUTION for row in unet.rows_of(network))
    output, times = results(held=True)
    np.testing.assert_array_equal(output, expected)
    assert times > convolutions  # blocks have theirs
    assert results(held=False)[1] == 0
    assert results(held=True)[1] == times

    with native.held_weights():
        network(IMAGES, TIMES)[0].asnumpy()
        weight = network.mid_block.resnets[0].conv1.weight
        ops.assign(weight, weight * 2.0)
        inside = network(IMAGES, TIMES)[0].asnumpy()
    assert np.abs(inside - expected).max() > 1e-3
    np.testing.assert_array_equal(results(held=True)[0], inside)


def test_weights_are_held_until_the_last_one_lets_go():
    network = make_unet(block_out_channels=(32, 64)).set_train(False)
    network(IMAGES, TIMES)[0].asnumpy()
    with pytest.raises(RuntimeError, match="inside"), native.held_weights():
        with native.held_weights():
            network(IMAGES, TIMES)[0].asnumpy()
        native.times()
        network(IMAGES, TIMES)[0].asnumpy()
        assert "lay_out_weights" not in native.times()
        raise RuntimeError("inside")
    network(IMAGES, TIMES)[0].asnumpy()
    assert "lay_out_weights" not in native.times()
    with evaluating(network):  # as sampling does
        network(IMAGES, TIMES)[0].asnumpy()
    assert "lay_out_weights" in native.times()


def test_held_weights_take_a_quarter_of_the_memory_at_most(monkeypatch):
    """Among them those of small tiles; large ones are not held. All is the same to the bit."""
    network = make_unet(block_out_channels=(48, 96), sample_size=16).set_train(False)
    images = ms.Tensor(GENERATOR.standard_normal((2 * num_threads(), 3, 32, 32)), ms.float32)
    times = ms.Tensor(np.arange(len(images)), ms.int32)
    expected = network(images, times)[0].asnumpy()

    def laid_out(memory_bytes):
        monkeypatch.setattr(native, "memory_bytes", lambda: memory_bytes)
        native.times()
        with native.held_weights():
            for _ in range(2):
                np.testing.assert_array_equal(network(images, times)[0].asnumpy(), expected)
        return native.times().get("lay_out_weights", (0, 0.0))[0]

    everything, some = laid_out(1 << 34), laid_out(1 << 22)
    assert 0 < some < everything
    assert laid_out(4) == 0
    assert laid_out(1 << 22) == some  # what was held before does not count any more

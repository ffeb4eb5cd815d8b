from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import mint

from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.dropout import DropoutKeys, draw_dropout_key
from mindone_ddpm.models.unet import make_unet


class TwoLayers(ms.nn.Cell):
    def __init__(self):
        super().__init__()
        self.first, self.second = mint.nn.Dropout(0.1), mint.nn.Dropout(0.3)

    def construct(self, x):
        return self.first(x), self.second(x)


class WithKeys(ms.nn.Cell):
    def __init__(self, batch_size):
        super().__init__()
        self.layers = TwoLayers()
        self.keys = DropoutKeys.for_network(self.layers, batch_size)

    def construct(self, x, keys):
        self.keys(keys)
        return self.layers(x)


def masks(keys, shape=(16, 32, 32)):
    cell = WithKeys(len(keys)).set_train()
    outputs = cell(ms.Tensor(np.ones((len(keys), *shape)), ms.float32), ms.Tensor(keys, ms.int32))
    return [output.asnumpy() for output in outputs]


def test_shares_and_scale(either_mode):
    keys = [draw_dropout_key(random_stream(0, 2, position)) for position in range(4)]
    for output, p in zip(masks(keys), (0.1, 0.3), strict=True):
        assert set(np.round(np.unique(output), 5)) == {0.0, np.float32(round(1 / (1 - p), 5))}
        assert np.abs((output == 0).mean((1, 2, 3)) - p).max() < 0.01


def test_masks_are_unlike_between_samples_layers_and_neighbours(graph_mode):
    first, second = masks([1, 2, -1, -2])
    dropped = (first == 0).reshape(4, -1) - 0.1
    correlation = np.corrcoef(dropped)
    assert np.abs(correlation - np.eye(4)).max() < 0.03
    between_layers = np.corrcoef(dropped[0], (second == 0).reshape(4, -1)[0])[0, 1]
    assert abs(between_layers) < 0.03
    for lag in (1, 32, 1024):
        assert abs((dropped[:, :-lag] * dropped[:, lag:]).mean() / 0.09) < 0.03


def test_a_mask_belongs_to_the_sample_wherever_it_stands(graph_mode):
    together = masks([5, 6, 7, 8])[0]
    apart = np.concatenate([masks([7, 8])[0], masks([5, 6])[0]])
    np.testing.assert_array_equal(together[[2, 3, 0, 1]], apart)


def test_nothing_is_dropped_in_evaluation(graph_mode):
    cell = WithKeys(2).set_train(False)
    images = ms.Tensor(np.ones((2, 4, 4, 4)), ms.float32)
    for output in cell(images, ms.Tensor([1, 2], ms.int32)):
        np.testing.assert_array_equal(output.asnumpy(), 1.0)


def test_the_gradient_passes_where_the_value_does(graph_mode):
    cell = WithKeys(2).set_train()
    keys = ms.Tensor([1, 2], ms.int32)
    images = ms.Tensor(np.random.default_rng(0).random((2, 4, 4, 4)) + 0.5, ms.float32)

    def total(x):
        return cell(x, keys)[0].sum()

    gradient = ms.grad(total)(images).asnumpy()
    np.testing.assert_allclose(gradient, (cell(images, keys)[0] / images).asnumpy(), rtol=1e-6)


def test_the_keys_are_no_part_of_the_network(graph_mode):
    config = TrainingConfig(preset="ddpm-cifar10", image_size=32)
    unet = make_unet(config)
    names = [name for name, _ in unet.parameters_and_names()]
    assert DropoutKeys.for_network(unet, 2) is not None
    assert [name for name, _ in unet.parameters_and_names()] == names


def test_a_network_without_dropout_needs_no_keys(graph_mode):
    assert DropoutKeys.for_network(make_unet(TrainingConfig(preset="tiny", image_size=8)), 2) is None
    assert pytest.approx(0.1) == make_unet(TrainingConfig(preset="ddpm-cifar10", image_size=32)).config.dropout

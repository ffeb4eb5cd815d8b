from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindone_ddpm.optimizers import AdamW, learning_rates


def test_warm_up_and_cosine():
    rates = learning_rates("cosine", 1.0, 10, 110)
    np.testing.assert_allclose(rates[:10], np.arange(10) / 10)
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 99 / 100)))


@pytest.mark.parametrize(
    ("name", "first", "middle", "last"),
    [
        ("constant", 1.0, 1.0, 1.0),
        ("constant_with_warmup", 0.0, 1.0, 1.0),
        ("linear", 0.0, 0.5, 0.01),
        ("polynomial", 0.0, 0.5, 0.01),
        ("cosine_with_restarts", 0.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))),
    ],
)
def test_shapes_of_the_schedules(name, first, middle, last):
    rates = learning_rates(name, 1.0, 10, 110)
    np.testing.assert_allclose(rates[[0, 60, 109]], [first, middle, last], atol=1e-6)


def adamw_by_hand(weights, gradients, rates, beta1, beta2, epsilon, decay):
    """Loshchilov & Hutter 2019, algorithm 2, with bias correction, in float64."""
    m = v = np.zeros_like(weights)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        weights = weights - rate * (m_hat / (np.sqrt(v_hat) + epsilon) + decay * weights)
    return weights


class Apply(nn.Cell):
    def __init__(self, optimizer, table):
        super().__init__()
        self.optimizer, self.table = optimizer, ms.Tensor(table, ms.float32)

    def construct(self, gradient, step, finite):
        return self.optimizer((gradient,), self.table[step], finite)


def test_adamw_by_hand(either_mode):
    generator = np.random.default_rng(0)
    start, gradients = generator.random((4, 3)), generator.standard_normal((5, 4, 3))
    rates = np.array([1e-2, 2e-2, 1e-2, 5e-3, 1e-3])
    weights = ms.Parameter(ms.Tensor(start, ms.float32), name="w")
    optimizer = AdamW(ms.ParameterTuple([weights]), 0.9, 0.99, 1e-3, 0.1)
    apply = Apply(optimizer, optimizer.columns(rates))
    for step, gradient in enumerate(gradients):
        apply(ms.Tensor(gradient, ms.float32), ms.Tensor(step, ms.int32), ms.Tensor(True))
    np.testing.assert_allclose(
        weights.asnumpy(), adamw_by_hand(start, gradients, rates, 0.9, 0.99, 1e-3, 0.1), rtol=2e-6
    )


def test_without_bias_correction_the_first_step_is_small(graph_mode):
    weights = ms.Parameter(ms.Tensor(np.zeros(2), ms.float32), name="w")
    optimizer = AdamW(ms.ParameterTuple([weights]), 0.9, 0.999, 1e-8, 0.0, bias_correction=False)
    apply = Apply(optimizer, optimizer.columns(np.array([1.0])))
    apply(ms.Tensor([1.0, -1.0], ms.float32), ms.Tensor(0, ms.int32), ms.Tensor(True))
    np.testing.assert_allclose(weights.asnumpy(), [-0.1 / math.sqrt(0.001), 0.1 / math.sqrt(0.001)], rtol=1e-5)


def test_told_that_it_is_not_finite_it_changes_no_bit(either_mode):
    generator = np.random.default_rng(0)
    weights = ms.Parameter(ms.Tensor(generator.random(50), ms.float32), name="w")
    optimizer = AdamW(ms.ParameterTuple([weights]), 0.9, 0.99, 1e-8, 0.1)
    apply = Apply(optimizer, optimizer.columns(np.array([1e-2, 1e-2])))
    apply(ms.Tensor(generator.random(50), ms.float32), ms.Tensor(0, ms.int32), ms.Tensor(True))
    state = [weights, optimizer.moments1[0], optimizer.moments2[0]]
    before = [tensor.asnumpy().copy() for tensor in state]
    apply(ms.Tensor(np.zeros(50), ms.float32), ms.Tensor(1, ms.int32), ms.Tensor(False))
    for tensor, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(tensor.asnumpy(), kept)

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime
from mindspore import nn, ops

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.training.optimizers import SGD, Adafactor, AdamW, Lion, learning_rates, make_optimizer

BACKEND = cpu_runtime().backend


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
        self.nothing = ms.Tensor(optimizer.nothing(), ms.float32)

    def construct(self, gradient, step, finite):
        return self.optimizer((gradient,), ops.unstack(ops.select(finite, self.table[step], self.nothing)))


def test_adamw_by_hand(either_mode):
    generator = np.random.default_rng(0)
    start, gradients = generator.random((4, 3)), generator.standard_normal((5, 4, 3))
    rates = np.array([1e-2, 2e-2, 1e-2, 5e-3, 1e-3])
    weights = ms.Parameter(ms.Tensor(start, ms.float32), name="w")
    optimizer = AdamW(ms.ParameterTuple([weights]), 0.9, 0.99, 1e-3, 0.1, backend=BACKEND)
    apply = Apply(optimizer, optimizer.columns(rates))
    for step, gradient in enumerate(gradients):
        apply(ms.Tensor(gradient, ms.float32), ms.Tensor(step, ms.int32), ms.Tensor(True))
    np.testing.assert_allclose(
        weights.asnumpy(), adamw_by_hand(start, gradients, rates, 0.9, 0.99, 1e-3, 0.1), rtol=2e-6
    )


def test_without_bias_correction_the_first_step_is_small(graph_mode):
    weights = ms.Parameter(ms.Tensor(np.zeros(2), ms.float32), name="w")
    optimizer = AdamW(ms.ParameterTuple([weights]), 0.9, 0.999, 1e-8, 0.0, bias_correction=False, backend=BACKEND)
    apply = Apply(optimizer, optimizer.columns(np.array([1.0])))
    apply(ms.Tensor([1.0, -1.0], ms.float32), ms.Tensor(0, ms.int32), ms.Tensor(True))
    np.testing.assert_allclose(weights.asnumpy(), [-0.1 / math.sqrt(0.001), 0.1 / math.sqrt(0.001)], rtol=1e-5)


def test_told_that_it_is_not_finite_it_changes_no_bit(either_mode):
    generator = np.random.default_rng(0)
    weights = ms.Parameter(ms.Tensor(generator.random(50), ms.float32), name="w")
    optimizer = AdamW(ms.ParameterTuple([weights]), 0.9, 0.99, 1e-8, 0.1, backend=BACKEND)
    apply = Apply(optimizer, optimizer.columns(np.array([1e-2, 1e-2])))
    apply(ms.Tensor(generator.random(50), ms.float32), ms.Tensor(0, ms.int32), ms.Tensor(True))
    state = [weights, optimizer.moments1[0], optimizer.moments2[0]]
    before = [tensor.asnumpy().copy() for tensor in state]
    apply(ms.Tensor(np.zeros(50), ms.float32), ms.Tensor(1, ms.int32), ms.Tensor(False))
    for tensor, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(tensor.asnumpy(), kept)


def slots_of(optimizer) -> list[ms.Parameter]:
    return [slot for slots in optimizer.slots().values() for slot in slots]


def run_optimizer(optimizer, gradients, rates):
    apply = Apply(optimizer, optimizer.columns(np.asarray(rates)))
    for step, gradient in enumerate(gradients):
        apply(ms.Tensor(gradient, ms.float32), ms.Tensor(step, ms.int32), ms.Tensor(True))


RATES = [1e-2, 2e-2, 5e-3]


def test_sgd_by_hand(either_mode):
    generator = np.random.default_rng(0)
    start, gradients = generator.random((4, 3)), generator.standard_normal((3, 4, 3))
    weights = ms.Parameter(ms.Tensor(start, ms.float32), name="w")
    run_optimizer(SGD(ms.ParameterTuple([weights]), 0.9, 0.1), gradients, RATES)
    expected, velocity = start.copy(), 0
    for gradient, rate in zip(gradients, RATES, strict=True):
        velocity = 0.9 * velocity + gradient
        expected = expected - rate * velocity - rate * 0.1 * expected
    np.testing.assert_allclose(weights.asnumpy(), expected, rtol=1e-5)


def test_lion_by_hand(either_mode):
    generator = np.random.default_rng(0)
    start, gradients = generator.random((4, 3)), generator.standard_normal((3, 4, 3))
    weights = ms.Parameter(ms.Tensor(start, ms.float32), name="w")
    run_optimizer(Lion(ms.ParameterTuple([weights]), 0.9, 0.99, 0.1), gradients, RATES)
    expected, moment = start.copy(), np.zeros((4, 3))
    for gradient, rate in zip(gradients, RATES, strict=True):
        direction = np.sign(0.9 * moment + 0.1 * gradient)
        expected = expected - rate * (direction + 0.1 * expected)
        moment = 0.99 * moment + 0.01 * gradient
    np.testing.assert_allclose(weights.asnumpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 2, 3, 3)])
def test_adafactor_by_hand(either_mode, shape):
    generator = np.random.default_rng(0)
    start, gradients = generator.random(shape), generator.standard_normal((3, *shape))
    weights = ms.Parameter(ms.Tensor(start, ms.float32), name="w")
    optimizer = Adafactor(ms.ParameterTuple([weights]), 0.1)
    run_optimizer(optimizer, gradients, RATES)
    expected, rows, columns = start.copy(), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True), start=1):
        beta = 1 - t**-0.8
        squares = gradient**2 + 1e-30
        if len(shape) > 1:
            matrix = squares.reshape(shape[0], -1)
            rows = beta * rows + (1 - beta) * matrix.mean(1)
            columns = beta * columns + (1 - beta) * matrix.mean(0)
            variance = (np.outer(rows, columns) / rows.mean()).reshape(shape)
        else:
            rows = beta * rows + (1 - beta) * squares
            variance = rows
        update = gradient / np.sqrt(variance)
        update /= max(1.0, np.sqrt((update**2).mean()))
        expected = expected - rate * update - rate * 0.1 * expected
    np.testing.assert_allclose(weights.asnumpy(), expected, rtol=1e-5)
    kept = sum(slot.size for slot in slots_of(optimizer))
    assert kept <= max(shape[0] + int(np.prod(shape[1:])), 6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor"])
def test_no_optimiser_changes_a_bit_at_an_overflow(graph_mode, name):
    generator = np.random.default_rng(0)
    weights = ms.Parameter(ms.Tensor(generator.random((5, 10)), ms.float32), name="w")
    config = TrainingConfig(optimizer=name, adam_weight_decay=0.1)
    optimizer = make_optimizer(config, ms.ParameterTuple([weights]), BACKEND)
    apply = Apply(optimizer, optimizer.columns(np.array([1e-2, 1e-2])))
    apply(ms.Tensor(generator.random((5, 10)), ms.float32), ms.Tensor(0, ms.int32), ms.Tensor(True))
    state = [weights, *slots_of(optimizer)]
    before = [tensor.asnumpy().copy() for tensor in state]
    apply(ms.Tensor(np.zeros((5, 10)), ms.float32), ms.Tensor(1, ms.int32), ms.Tensor(False))
    for tensor, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(tensor.asnumpy(), kept)


def test_piecewise_constant_schedule_with_cycles_and_power():
    rates = learning_rates("piecewise_constant", 2.0, 3, 6, step_rules="1:2,0.5:4,0.1")
    np.testing.assert_allclose(rates, [2, 2, 1, 1, 0.2, 0.2])
    twice = learning_rates("cosine_with_restarts", 1.0, 0, 8, num_cycles=2.0)
    np.testing.assert_allclose(twice[:4], twice[4:])
    squared = learning_rates("polynomial", 1.0, 0, 4, power=2.0)
    np.testing.assert_allclose(squared, (1 - np.arange(4) / 4) ** 2, atol=1e-6)

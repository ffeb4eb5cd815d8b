from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime
from mindspore import nn, ops
from test_optimizers import adamw_by_hand

from mindone_ddpm.training.optimizers import AdamW
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate

BETA1, BETA2, EPSILON, DECAY, RATE = 0.9, 0.99, 1e-3, 0.1, 1e-2
GENERATOR = np.random.default_rng(3)
START = GENERATOR.standard_normal((3, 2))
INPUTS = GENERATOR.standard_normal((40, 3))


class LinearLoss(nn.Cell):
    """Per sample: |x W|^2. Its gradient is known: 2 x^T x W."""

    def __init__(self):
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(START, ms.float32), name="weight")

    def construct(self, x):
        return ops.square(ops.matmul(x, self.weight)).sum(-1)


def gradient_by_hand(weight, x):
    return 2 * x.T @ x @ weight / len(x)


def make_step(accumulation_steps=1, max_grad_norm=0.0, loss_scale=1.0, steps=50, **options):
    loss = LinearLoss()
    parameters = ms.ParameterTuple(loss.trainable_params())
    backend = cpu_runtime().backend
    optimizer = AdamW(parameters, BETA1, BETA2, EPSILON, DECAY, backend=backend)
    boundary = OptimizerUpdate(optimizer, np.full(steps, RATE), backend, max_grad_norm, loss_scale, **options)
    return DiffusionTrainStep(loss, boundary, accumulation_steps)


def batch(x, weights=None):
    weights = np.ones(len(x)) if weights is None else weights
    return [ms.Tensor(x, ms.float32), ms.Tensor(weights, ms.float32)]


def weight_of(step) -> np.ndarray:
    return step.model.weight.asnumpy().astype(np.float64)


@pytest.mark.parametrize("loss_scale", [1.0, 65536.0])
def test_updates_are_adamw_on_the_mean_gradient(either_mode, loss_scale):
    step = make_step(loss_scale=loss_scale)
    expected, gradients = START, []
    for number in range(4):
        x = INPUTS[8 * number : 8 * number + 8]
        gradients.append(gradient_by_hand(expected, x))
        loss, norm, _ = step.run([batch(x)])
        assert float(loss) == pytest.approx(((x @ expected) ** 2).sum() / 8, rel=1e-5)
        assert float(norm) == pytest.approx(np.linalg.norm(gradients[-1]), rel=1e-5)
        expected = adamw_by_hand(START, gradients, [RATE] * len(gradients), BETA1, BETA2, EPSILON, DECAY)
        np.testing.assert_allclose(weight_of(step), expected, rtol=1e-5)
    assert int(step.boundary.step) == 4


def test_the_global_norm_is_clipped(either_mode):
    step = make_step(max_grad_norm=0.5)
    gradient = gradient_by_hand(START, INPUTS[:8])
    assert np.linalg.norm(gradient) > 0.5
    step.run([batch(INPUTS[:8])])
    clipped = gradient * 0.5 / np.linalg.norm(gradient)
    expected = adamw_by_hand(START, [clipped], [RATE], BETA1, BETA2, EPSILON, DECAY)
    np.testing.assert_allclose(weight_of(step), expected, rtol=1e-5)


def test_an_overflow_changes_nothing_but_the_count(either_mode):
    step = make_step(max_grad_norm=1.0)
    step.run([batch(INPUTS[:8])])
    optimizer = step.boundary.optimizer
    state = [step.model.weight, optimizer.moments1[0], optimizer.moments2[0], step.boundary.step]
    before = [tensor.asnumpy().copy() for tensor in state]
    bad = INPUTS[8:16].copy()
    bad[3, 1] = np.inf
    for skips in (1, 2):
        loss, _, _ = step.run([batch(bad)])
        assert not np.isfinite(float(loss))
        assert (int(step.boundary.skips), int(step.boundary.consecutive_skips)) == (skips, skips)
        for tensor, kept in zip(state, before, strict=True):
            np.testing.assert_array_equal(tensor.asnumpy(), kept)
    step.run([batch(INPUTS[8:16])])
    assert (int(step.boundary.step), int(step.boundary.skips), int(step.boundary.consecutive_skips)) == (2, 2, 0)

    undisturbed = make_step(max_grad_norm=1.0)
    for first in (0, 8):
        undisturbed.run([batch(INPUTS[first : first + 8])])
    np.testing.assert_array_equal(weight_of(step), weight_of(undisturbed))


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_accumulated_micro_batches_equal_one_large_batch(either_mode, loss_scale):
    whole, parts = make_step(1, 1.0, loss_scale), make_step(4, 1.0, loss_scale)
    for number in range(3):
        x = INPUTS[8 * number : 8 * number + 8]
        loss, norm, _ = whole.run([batch(x)])
        loss_parts, norm_parts, _ = parts.run([batch(x[i : i + 2]) for i in range(0, 8, 2)])
        assert float(loss_parts) == pytest.approx(float(loss), rel=1e-6)
        assert float(norm_parts) == pytest.approx(float(norm), rel=1e-6)
    np.testing.assert_allclose(weight_of(parts), weight_of(whole), rtol=1e-6)
    assert int(parts.boundary.step) == 3


def test_a_ragged_window_divides_by_what_it_has(either_mode):
    whole, parts = make_step(1), make_step(4)
    whole.run([batch(INPUTS[:5])])
    filled = np.concatenate([INPUTS[4:5], INPUTS[:1]])  # one sample, one filling
    loss, _, _ = parts.run([batch(INPUTS[0:2]), batch(INPUTS[2:4]), batch(filled, [1, 0])])
    assert float(loss) == pytest.approx(((INPUTS[:5] @ START) ** 2).sum() / 5, rel=1e-6)
    np.testing.assert_allclose(weight_of(parts), weight_of(whole), rtol=1e-6)


def test_an_overflow_in_one_micro_batch_clears_the_window(either_mode):
    step, undisturbed = make_step(2), make_step(2)
    bad = INPUTS[:2] * np.inf
    step.run([batch(INPUTS[:2]), batch(bad)])
    for one in (step, undisturbed):
        one.run([batch(INPUTS[:2]), batch(INPUTS[2:4])])
    np.testing.assert_array_equal(weight_of(step), weight_of(undisturbed))
    assert (int(step.boundary.skips), int(step.boundary.step)) == (1, 1)


def test_without_accumulation_no_gradient_is_kept(graph_mode):
    assert not hasattr(make_step(1), "gradient_sums")
    assert len(make_step(2).gradient_sums) == 1


def test_the_step_is_compiled_once(graph_mode):
    step = make_step()
    for number in range(4):
        step.run([batch(INPUTS[8 * number : 8 * number + 8])])
    assert len(step.compile_cache) == 1


def test_past_the_end_of_the_table_its_last_row_holds(graph_mode):
    step = make_step(steps=2)
    for _ in range(4):
        step.run([batch(INPUTS[:8])])
    assert int(step.boundary.step) == 4
    assert np.isfinite(weight_of(step)).all()


def test_dynamic_scale_halves_at_an_overflow_and_doubles_after_good_steps(either_mode):
    step = make_step(loss_scale=16.0, dynamic_scaling=True, scale_growth_interval=3)
    good, bad = batch(INPUTS[:8]), batch(INPUTS[:8] * np.inf)
    scales = []
    for data in (good, good, good, good, bad, bad, good, good, bad, good, good, good):
        step.run([data])
        scales.append(float(step.boundary.loss_scale))
    assert scales == [16, 16, 32, 32, 16, 8, 8, 8, 4, 4, 4, 8]


def test_dynamic_scale_stays_above_one(either_mode):
    step = make_step(loss_scale=2.0, dynamic_scaling=True)
    for _ in range(3):
        step.run([batch(INPUTS[:8] * np.inf)])
    assert float(step.boundary.loss_scale) == 1.0


def test_a_changing_scale_does_not_change_the_update(either_mode):
    fixed, moving = make_step(), make_step(loss_scale=2.0, dynamic_scaling=True, scale_growth_interval=1)
    for number in range(4):
        data = [batch(INPUTS[8 * number : 8 * number + 8])]
        fixed.run(data)
        moving.run(data)
    assert float(moving.boundary.loss_scale) == 32.0
    np.testing.assert_allclose(weight_of(moving), weight_of(fixed), rtol=1e-6)

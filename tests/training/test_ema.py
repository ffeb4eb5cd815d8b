from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime
from mindspore import ops
from test_step import INPUTS, RATE, LinearLoss, batch

from mindone_ddpm.training.ema import ExponentialMovingAverage, ema_decays
from mindone_ddpm.training.optimizers import AdamW
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate
from mindone_ddpm.training.weights import SeparateWeights


def published_decay(step, inv_gamma, power, max_decay):
    """EMAModel.get_decay of the published scripts, with warm-up, for optimisation_step ``step`` (from 1)."""
    step = max(0, step - 1)
    return 0.0 if step <= 0 else min(1 - (1 + step / inv_gamma) ** -power, max_decay)


@pytest.mark.parametrize(("inv_gamma", "power", "max_decay"), [(1.0, 0.75, 0.9999), (2.0, 0.5, 0.6), (1.0, 1.0, 1.0)])
def test_decays_are_the_published_ones(inv_gamma, power, max_decay):
    found = ema_decays(50, inv_gamma, power, max_decay)
    expected = [published_decay(step, inv_gamma, power, max_decay) for step in range(1, 51)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (ema_decays(50, fixed=0.9) == 0.9).all()


class BiasedLoss(LinearLoss):
    """With a second parameter, so that all averages are moved at once where the device has an operator for that."""

    def __init__(self):
        super().__init__()
        self.bias = ms.Parameter(ms.Tensor([0.5], ms.float32), name="bias")

    def construct(self, x):
        return super().construct(x) + ops.square(x.sum(-1) * self.bias)


def make(decays, accumulation_steps=1, make_loss=LinearLoss):
    loss = make_loss()
    parameters = ms.ParameterTuple(loss.trainable_params())
    backend = cpu_runtime().backend
    ema = ExponentialMovingAverage(SeparateWeights(parameters), decays, backend)
    optimizer = AdamW(parameters, 0.9, 0.99, 1e-3, 0.1, backend=backend)
    boundary = OptimizerUpdate(optimizer, np.full(50, RATE), ema=ema, backend=backend)
    return DiffusionTrainStep(loss, boundary, accumulation_steps), ema


@pytest.mark.parametrize(("accumulation_steps", "make_loss"), [(1, LinearLoss), (1, BiasedLoss), (2, BiasedLoss)])
def test_the_average_follows_its_closed_form_over_real_steps_only(either_mode, accumulation_steps, make_loss):
    decays = ema_decays(50)
    step, ema = make(decays, accumulation_steps, make_loss)
    expected, real_steps = step.model.weight.asnumpy().astype(np.float64), 0
    for number in range(8):
        x = INPUTS[4 * number : 4 * number + 4].copy()
        if number in (2, 5):
            x[0, 0] = np.nan
        window = [batch(x)] if accumulation_steps == 1 else [batch(x[:2]), batch(x[2:])]
        before = ema.averages[0].asnumpy().copy()
        step.run(window)
        if number in (2, 5):
            np.testing.assert_array_equal(ema.averages[0].asnumpy(), before)
            continue
        decay = decays[real_steps]
        expected = decay * expected + (1 - decay) * step.model.weight.asnumpy()
        real_steps += 1
        np.testing.assert_allclose(ema.averages[0].asnumpy(), expected, rtol=1e-5)


def test_swapping_in_always_puts_the_weights_back_to_the_bit(either_mode):
    step, ema = make(ema_decays(50, fixed=0.5))
    for number in range(3):
        step.run([batch(INPUTS[4 * number : 4 * number + 4])])
    weights, averages = step.model.weight.asnumpy().copy(), ema.averages[0].asnumpy().copy()
    with pytest.raises(ZeroDivisionError), ema.swapped_in():
        np.testing.assert_array_equal(step.model.weight.asnumpy(), averages)
        raise ZeroDivisionError
    np.testing.assert_array_equal(step.model.weight.asnumpy(), weights)
    np.testing.assert_array_equal(ema.averages[0].asnumpy(), averages)

    # The compiled step goes on from the weights, not from the averages.
    other, _ = make(ema_decays(50, fixed=0.5))
    for number in range(4):
        other.run([batch(INPUTS[4 * number : 4 * number + 4])])
    step.run([batch(INPUTS[12:16])])
    np.testing.assert_array_equal(step.model.weight.asnumpy(), other.model.weight.asnumpy())


def test_swapping_leaves_no_copy_of_the_weights_behind():
    """A clone of a parameter lives as long as the parameter: each evaluation of a run took a copy of the weights."""
    import gc

    _, ema = make(ema_decays(50), make_loss=BiasedLoss)

    def parameters():
        return sum(type(one).__name__ == "Parameter" for one in gc.get_objects())

    gc.collect()
    with ema.swapped_in():
        inside = parameters()
    outside = parameters()
    assert inside == outside + 2  # the loss's two
    for _ in range(3):
        with pytest.raises(KeyError), ema.swapped_in():
            raise KeyError
    assert parameters() <= outside

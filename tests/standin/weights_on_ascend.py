"""Weights in one vector: the same training as with a parameter for each, through views that share its memory.

test_flat_weights.py runs these tests on the stand-in.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import mint, nn

from mindone_ddpm.backends.choose import choose
from mindone_ddpm.models.precision import HalfCopies, set_compute_precision
from mindone_ddpm.runtime.start import start
from mindone_ddpm.training.ema import ExponentialMovingAverage, ema_decays
from mindone_ddpm.training.optimizers import AdamW, Lion
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate
from mindone_ddpm.training.weights import FlatWeights, SeparateWeights, refresh

start("Ascend", "graph", seed=0)
BACKEND = choose("Ascend")


@pytest.fixture(params=["graph", "pynative"])
def either_mode(request):
    start("Ascend", request.param, seed=0)
    yield
    start("Ascend", "graph", seed=0)


class Network(nn.Cell):
    """Layers in half precision and in full, of even and odd sizes."""

    def __init__(self):
        super().__init__()
        self.conv = mint.nn.Conv2d(1, 4, 3, padding=1)
        self.norm = mint.nn.GroupNorm(2, 4)
        self.out = mint.nn.Linear(4, 3)

    def construct(self, x):
        x = self.norm(self.conv(x)).mean((2, 3))
        return mint.square(self.out(x).astype(ms.float32) - 1.0).mean(1)


def make(flat: bool, precision: str, make_optimizer, accumulation_steps=1):
    ms.set_seed(3)
    network = Network()
    set_compute_precision(network, precision)
    parameters = network.trainable_params()
    generator = np.random.default_rng(0)
    for parameter in parameters:
        parameter.set_data(ms.Tensor(generator.standard_normal(parameter.shape), ms.float32))
    weights = FlatWeights(parameters, HalfCopies([network])) if flat else SeparateWeights(parameters)
    ema = ExponentialMovingAverage(weights, ema_decays(20), BACKEND)
    update = OptimizerUpdate(
        make_optimizer(weights.updated),
        np.full(20, 0.05),
        max_grad_norm=0.5,
        loss_scale=16.0,
        ema=ema,
        backend=BACKEND,
        weights=weights,
    )
    return network, DiffusionTrainStep(network, update, accumulation_steps), ema


def adamw(parameters):
    return AdamW(parameters, 0.9, 0.99, 1e-6, 0.1, backend=BACKEND)


def lion(parameters):
    return Lion(parameters, 0.9, 0.99, 0.1)


def train(step, accumulation_steps=1):
    generator = np.random.default_rng(1)
    results = []
    for number in range(4):
        window = []
        for _ in range(accumulation_steps):
            x = generator.standard_normal((4, 1, 6, 6)).astype(np.float32)
            if number == 2:
                x[0, 0, 0, 0] = np.inf
            window.append([ms.Tensor(x), ms.Tensor(np.ones(4, np.float32))])
        results.append([float(value.asnumpy()) for value in step.run(window)])
    return results


def contents(network, step, ema):
    named = list(network.parameters_and_names())  # by place: a step prefixes the names that parameters carry
    weights = {name: parameter.asnumpy() for name, parameter in named}
    averages = {f"ema {name}": average.asnumpy() for name, average in ema.averaged(named)}
    return weights | averages | {name: value.asnumpy() for name, value in step.boundary.state().items()}


@pytest.mark.parametrize(("precision", "optimizer", "accumulation_steps"), [("no", adamw, 2), ("fp16", lion, 1)])
def test_training_is_the_same(either_mode, precision, optimizer, accumulation_steps):
    runs = []
    for flat in (False, True):
        network, step, ema = make(flat, precision, optimizer, accumulation_steps)
        results = train(step, accumulation_steps)
        runs.append((results, contents(network, step, ema)))
    (separate, expected), (flat_results, found) = runs
    np.testing.assert_allclose(flat_results, separate, rtol=1e-5)
    assert set(found) == set(expected) and flat_results[2][2] == 1  # the third update was skipped
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_weight_has_its_gradient():
    _, step, _ = make(True, "fp16", adamw)
    train(step)
    for name, moment in step.boundary.state().items():
        if name.startswith("moments1"):
            assert np.abs(moment.asnumpy()).max() > 0, name


def test_parts_share_the_memory_of_the_vector():
    network, step, _ = make(True, "fp16", adamw)
    weights = step.boundary.weights
    starts = [parameter.data_ptr() for parameter in weights.parameters]
    assert min(starts) == weights.vector.data_ptr() and len(set(starts)) == len(starts)
    ms.ops.assign(weights.vector, ms.ops.ones_like(weights.vector))
    assert all((parameter.asnumpy() == 1).all() for parameter in network.trainable_params())
    copy = network.conv.weight_copy
    assert copy.dtype == ms.float16 and not (copy.asnumpy() == 1).all()
    refresh(weights)
    assert (copy.asnumpy() == 1).all()
    assert "weight_copy" not in " ".join(name for name, _ in network.parameters_and_names())


def test_swapping_the_averages_in_swaps_the_copies_too():
    network, step, ema = make(True, "fp16", adamw)
    train(step)
    weight = network.conv.weight.asnumpy()
    (average,) = [value for name, value in ema.averaged([("w", network.conv.weight)])]
    with ema.swapped_in():
        np.testing.assert_array_equal(network.conv.weight.asnumpy(), average.asnumpy())
        np.testing.assert_array_equal(network.conv.weight_copy.asnumpy(), average.asnumpy().astype(np.float16))
    np.testing.assert_array_equal(network.conv.weight.asnumpy(), weight)
    np.testing.assert_array_equal(network.conv.weight_copy.asnumpy(), weight.astype(np.float16))

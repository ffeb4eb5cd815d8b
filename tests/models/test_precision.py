from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime, set_mode

from mindone_ddpm.backends.cpu import native
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.job import UnconditionalLoss
from mindone_ddpm.models.precision import set_compute_precision
from mindone_ddpm.models.unet import checkpoint_gradients, make_unet
from mindone_ddpm.objectives import choose
from mindone_ddpm.objectives.ddpm import DDPMObjective
from mindone_ddpm.training.optimizers import make_optimizer
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate

CONFIG = TrainingConfig(preset="tiny", image_size=8, channels=1)
BACKEND = cpu_runtime().backend
GENERATOR = np.random.default_rng(0)
BATCH = [
    ms.Tensor(GENERATOR.standard_normal((4, 1, 8, 8)), ms.float32),
    ms.Tensor(GENERATOR.standard_normal((4, 1, 8, 8)), ms.float32),
    ms.Tensor(GENERATOR.integers(0, 1000, 4), ms.int32),
    ms.Tensor(np.ones(4), ms.float32),
]


def train_three_steps(prepare, loss_scale=1.0):
    ms.set_seed(0)
    unet = make_unet(CONFIG)
    prepare(unet)
    scheduler = choose.make_noise_scheduler(CONFIG)
    optimizer = make_optimizer(CONFIG, ms.ParameterTuple(unet.trainable_params()), BACKEND)
    boundary = OptimizerUpdate(optimizer, np.full(10, 1e-3), BACKEND, 1.0, loss_scale)
    loss_cell = UnconditionalLoss(unet, DDPMObjective(scheduler.alphas_cumprod.asnumpy(), "epsilon"))
    step = DiffusionTrainStep(loss_cell, boundary).set_train()
    results = [[float(value) for value in step.run([BATCH])[:2]] for _ in range(3)]
    return np.array(results), unet, boundary


@pytest.fixture(scope="module")
def full_precision():
    set_mode("graph")
    return train_three_steps(lambda unet: None)


def test_fp16_computes_in_half_and_keeps_masters_in_float32(full_precision):
    results, unet, boundary = train_three_steps(lambda unet: set_compute_precision(unet, "fp16"), 65536.0)
    expected, reference, _ = full_precision
    np.testing.assert_allclose(results, expected, rtol=2e-2)
    assert (results != expected).any()
    assert int(boundary.skips) == 0
    assert {parameter.dtype for parameter in unet.trainable_params()} == {ms.float32}
    assert [p.name for p in unet.trainable_params()] == [p.name for p in reference.trainable_params()]
    assert unet(*BATCH[:1], BATCH[2])[0].dtype == ms.float16


def test_an_overflowing_scale_in_fp16_is_skipped_until_it_fits():
    set_mode("graph")
    _, _, boundary = train_three_steps(lambda unet: set_compute_precision(unet, "fp16"), 2.0**40)
    assert (int(boundary.step), int(boundary.skips)) == (0, 3)


def test_gradient_checkpointing_gives_the_same_losses_and_gradients(full_precision):
    results, unet, _ = train_three_steps(checkpoint_gradients)
    expected, reference, _ = full_precision
    np.testing.assert_allclose(results, expected, rtol=1e-5)
    for found, wanted in zip(unet.trainable_params(), reference.trainable_params(), strict=True):
        # Adam turns the rounding of a gradient near 0 into a step of up to the learning rate.
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), atol=2e-4)
    if native.library() is not None:  # of a block as one operator MindSpore would keep all, and compute nothing again
        assert {block.operator for block in blocks_of(unet)} == {None}
        assert None not in {block.operator for block in blocks_of(reference)}


def blocks_of(unet):
    return [cell for _, cell in unet.cells_and_names() if type(cell).__name__ in ("ResnetBlock2D", "Attention")]


def test_gradient_checkpointing_in_pynative():
    set_mode("pynative")
    try:
        plain, _, _ = train_three_steps(lambda unet: None)
        results, _, _ = train_three_steps(checkpoint_gradients)
        np.testing.assert_allclose(results, plain, rtol=1e-5)
    finally:
        set_mode("graph")

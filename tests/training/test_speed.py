"""What costs time is not there: questions to the device, recompiling, work that grows with the step or the data."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore.common.api import _CellGraphExecutor

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.training import loop, setup


def make_training(tmp_path, small_model, **changes):
    settings = {
        "dataset_name": "digits", "channels": 1, "image_size": 8, "train_batch_size": 16, "lr_warmup_steps": 0,
        "model_config_name_or_path": str(small_model), "save_image_epochs": 0, "checkpointing_steps": 0,
        "report_to": "none", "device": "CPU", "compile_cache": "off", "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    return setup.prepare(TrainingConfig(**settings | changes))


class Counter:
    """Counts calls of a method, and passes them on."""

    def __init__(self, monkeypatch, owner, name, counts=lambda result: True):
        self.count = 0
        original = getattr(owner, name)

        def counted(this, *arguments, **options):
            result = original(this, *arguments, **options)
            self.count += counts(result)
            return result

        monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_loop_asks_the_device_only_when_it_logs(tmp_path, small_model, monkeypatch, accumulation):
    training = make_training(
        tmp_path, small_model, max_train_steps=12, use_ema=True, logging_steps=4,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    questions = Counter(monkeypatch, ms.Tensor, "asnumpy")
    step, asked_before = type(training).step, []

    def watched_step(this, window):
        asked_before.append(questions.count)
        return step(this, window)

    monkeypatch.setattr(type(training), "step", watched_step)
    monkeypatch.setattr(loop, "save_product", lambda training: None)
    loop.train_loop(training)
    # The first step compiles. Before each later one, how often the device was asked since the step before: for three
    # values of each of four steps, and for step, skips and loss scale, after every fourth.
    assert np.diff(asked_before)[1:].tolist() == [0, 0, 15, 0, 0, 0, 15, 0, 0, 0]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_nothing_is_compiled_after_the_first_step(tmp_path, small_model, monkeypatch, accumulation):
    """Through the end of an epoch, with its ragged window and its batch that is filled up."""
    training = make_training(
        tmp_path, small_model, train_batch_size=64, max_train_samples=200, gradient_accumulation_steps=accumulation
    )
    windows = training.windows(0)
    compiled = Counter(monkeypatch, _CellGraphExecutor, "compile", lambda result: result[1])
    training.step(next(windows))[0].asnumpy()
    assert compiled.count == accumulation  # the step, or a micro-batch's and the window's
    sizes = set()
    for _ in range(8):
        window = next(windows)
        sizes.add(len(window))
        training.step(window)[0].asnumpy()
    assert compiled.count == accumulation
    assert training.plan.num_samples % 64 != 0


def test_a_step_carries_nothing_that_grows(tmp_path, small_model):
    """The same tensors in and out, of the same sizes, whatever the step and however many images there are."""
    shapes = []
    for samples in (64, 1500):
        training = make_training(tmp_path / str(samples), small_model, max_train_samples=samples, max_train_steps=40)
        windows = training.windows(0)
        for number in range(12):
            window = next(windows)
            results = training.step(window)
            if number in (0, 11):
                shapes.append([tuple(tensor.shape) for tensor in (*window[0], *results)])
        assert np.isfinite(results[0].asnumpy())
    assert all(found == shapes[0] for found in shapes)

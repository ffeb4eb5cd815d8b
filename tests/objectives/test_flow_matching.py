"""Flow matching against its closed forms, and where a pipeline's objective does not fit."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from conftest import run_program
from scipy import stats

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import pipelines
from mindone_ddpm.objectives.choose import make_noise_scheduler, make_objective
from mindone_ddpm.objectives.flow_matching import FlowMatchingObjective


def flow(**settings) -> FlowMatchingObjective:
    config = TrainingConfig(objective="flow_matching", **settings)
    objective = make_objective(make_noise_scheduler(config), config)
    assert isinstance(objective, FlowMatchingObjective)
    return objective


def test_the_path_and_its_velocity(either_mode):
    """The target is the derivative of the path with respect to time, at every time the same."""
    generator = np.random.default_rng(0)
    images, noise = generator.standard_normal((2, 3, 1, 4, 4)).astype(np.float32)
    times = np.array([0.0, 0.25, 1.0], np.float32)
    objective = flow()

    def corrupted(at):
        found = objective.corrupt(ms.Tensor(images), ms.Tensor(noise), ms.Tensor(at))
        return [None if part is None else part.asnumpy() for part in found]

    model_input, model_time, target, weight = corrupted(times)
    np.testing.assert_array_equal(model_input[0], images[0])
    np.testing.assert_array_equal(model_input[2], noise[2])
    np.testing.assert_allclose(model_input[1], 0.75 * images[1] + 0.25 * noise[1], rtol=1e-6)
    np.testing.assert_allclose(model_time, [0, 250, 1000])
    np.testing.assert_allclose(target, noise - images, rtol=1e-6)
    assert weight is None
    later = corrupted(times + np.float32(0.125))[0]
    np.testing.assert_allclose((later - model_input) / 0.125, target, atol=1e-5)
    # From any time, a step along the velocity down to 0 is the image.
    np.testing.assert_allclose(model_input - times.reshape(-1, 1, 1, 1) * target, images, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_training_times_are_those_of_the_distribution(shift):
    def drawn(**settings):
        objective = flow(flow_shift=shift, **settings)
        rng = np.random.default_rng(0)
        times = np.array([objective.draw_time(rng) for _ in range(4000)])
        return times / (shift - (shift - 1.0) * times)  # without the shift

    assert stats.kstest(drawn(), "uniform").pvalue > 0.01
    logits = drawn(timestep_sampling="logit_normal", logit_mean=0.5, logit_std=0.7)
    assert stats.kstest(np.log(logits / (1 - logits)), "norm", (0.5, 0.7)).pvalue > 0.01
    ratios = drawn(timestep_sampling="lognormal")
    assert stats.kstest(np.log(ratios / (1 - ratios)), "norm", (-1.2, 1.2)).pvalue > 0.01


def test_times_of_validation_lie_in_their_bucket():
    objective, rng = flow(flow_shift=3.0), np.random.default_rng(0)
    for bucket in range(10):
        assert bucket / 10 <= objective.draw_time_within(rng, bucket, 10) < (bucket + 1) / 10
    assert objective.bucket_names(10)[1] == "s0.1-0.2"


def test_settings_that_contradict():
    with_ddpm = TrainingConfig(objective="flow_matching", dataset_name="digits", prediction_type="v_prediction")
    assert any("--prediction_type" in line and "flow_matching" in line for line in with_ddpm.problems())
    weighted = TrainingConfig(objective="flow_matching", dataset_name="digits", snr_gamma=5.0)
    assert any("--snr_gamma" in line for line in weighted.problems())
    shifted = TrainingConfig(objective="ddpm", dataset_name="digits", flow_shift=3.0)
    assert any("--flow_shift" in line for line in shifted.problems())


@pytest.mark.slow  # test_peer.py has one too
def test_a_run_by_flow_matching(digits_flags, tmp_path):
    """Trained, resumed, sampled with each of its samplers, trained further; and refused as what it is not."""
    folder = tmp_path / "flow"
    start = ["train", *digits_flags, "--output_dir", folder, "--flow_shift", 2, "--validation_split", 0.1]
    start += ["--objective", "flow_matching", "--max_train_steps", 4, "--use_ema"]
    result = run_program(*start)
    assert result.returncode == 0, result.stderr
    pipeline = pipelines.load_pipeline(str(folder))
    assert type(pipeline.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert pipeline.scheduler.config.shift == 2
    for name in ("heun", None):
        sampler = [] if name is None else ["--scheduler", name, "--num_inference_steps", 4]
        samples = tmp_path / f"samples-{name}"
        result = run_program("sample", "--model", folder, "--num_images", 2, "--output_dir", samples, *sampler)
        assert result.returncode == 0, result.stderr
        assert len(list(samples.glob("0*.png"))) == 2
    further = ["train", "--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--max_train_steps", 2]
    further += ["--train_batch_size", 16, "--save_image_epochs", 0, "--pretrained_model_name_or_path", folder]
    for wrong, line in (
        (["sample", "--model", folder, "--scheduler", "ddim"], "--scheduler ddim: is not for a model of flow matching"),
        (["sample", "--model", folder, "--scheduler", "pndm"], "--scheduler pndm: is not for a model of flow matching"),
        (["inpaint", "--model", folder, "--image", samples, "--mask", samples / "00000.png"], "RePaint needs epsilon"),
        ([*further, "--objective", "ddpm"], "was trained as flow_matching; leave the flag"),
        ([*further, "--ddpm_beta_schedule", "sigmoid"], "--ddpm_beta_schedule: --pretrained"),
        ([*further, "--flow_shift", 3], "--flow_shift 3.0: --pretrained"),
    ):
        result = run_program(*wrong, "--output_dir", tmp_path / "wrong")
        assert result.returncode in (1, 2) and line in result.stderr, result.stderr
    result = run_program(*further, "--output_dir", tmp_path / "further")
    assert result.returncode == 0, result.stderr
    assert pipelines.load_pipeline(str(tmp_path / "further")).scheduler.config.shift == 2
    ends = samples / "00000.png", samples / "00001.png"
    result = run_program(
        *("interpolate", "--model", folder, "--image_a", ends[0], "--image_b", ends[1], "--num_images", 3),
        *("--num_inference_steps", 4, "--output_dir", tmp_path / "row"),
    )
    assert result.returncode == 0, result.stderr

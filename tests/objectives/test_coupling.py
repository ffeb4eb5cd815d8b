"""Noise that is put near its samples: against all orders, by class, in the batches of a job, and where it cannot be."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from conftest import cpu_runtime, run_program
from scipy import stats

from mindone_ddpm.common.randomness import SAMPLE_STREAM, random_stream
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.job import UnconditionalJob
from mindone_ddpm.objectives.coupling import nearest_order


def cost(samples, noise, order) -> float:
    return float(np.square(samples - noise[list(order)]).sum())


@pytest.mark.parametrize("seed", range(3))
def test_no_other_order_is_nearer(seed):
    samples, noise = np.random.default_rng(seed).standard_normal((2, 6, 1, 2, 3)).astype(np.float32)
    order = nearest_order(samples, noise)
    assert sorted(order) == list(range(6)) and order.dtype == np.int64
    every = [cost(samples, noise, one) for one in permutations(range(6))]
    assert cost(samples, noise, order) == pytest.approx(min(every)) and min(every) < 0.9 * np.mean(every)


def test_of_numbers_it_is_the_order_of_their_sizes():
    samples, noise = np.random.default_rng(0).standard_normal((2, 100, 1)).astype(np.float32)
    order = nearest_order(samples, noise)
    np.testing.assert_array_equal(np.argsort(noise[order, 0]), np.argsort(samples[:, 0]))


def test_noise_stays_within_its_conditions():
    rng = np.random.default_rng(0)
    samples, noise = rng.standard_normal((2, 12, 4)).astype(np.float32)
    labels = np.repeat([7, 1, 3], 4).astype(np.int32)
    order = nearest_order(samples, noise, [labels])
    np.testing.assert_array_equal(labels[order], labels)
    for label in (1, 3, 7):
        rows = np.flatnonzero(labels == label)
        best = min(cost(samples[rows], noise[rows], one) for one in permutations(range(4)))
        assert cost(samples[rows], noise[rows], order[rows] - rows[0]) == pytest.approx(best)
    told = np.zeros((12, 2), np.float32)
    told[:, 1] = np.arange(12) % 6  # only rows 0 and 6, 1 and 7, ... are told the same, and none has their label
    np.testing.assert_array_equal(nearest_order(samples, noise, [labels, told]), np.arange(12))


def test_the_noise_of_each_sample_stays_normal():
    """Over many batches; and it does depend on the sample."""
    rng, first, dependence = np.random.default_rng(1), [], []
    for _ in range(1000):
        samples, noise = 2.0 + rng.standard_normal((8, 3)), rng.standard_normal((8, 3))
        noise = noise[nearest_order(samples, noise)]
        first.append(noise[0])
        dependence.append(np.corrcoef(samples.ravel(), noise.ravel())[0, 1])
    assert stats.kstest(np.ravel(first), "norm").pvalue > 0.01
    assert stats.kstest(np.square(first).sum(1), "chi2", (3,)).pvalue > 0.01
    assert np.mean(dependence) > 0.4


def batch_of(**settings) -> dict[str, np.ndarray]:
    config = TrainingConfig(
        dataset_name="digits",
        image_size=8,
        channels=1,
        preset="tiny",
        objective="flow_matching",
        mixed_precision="no",
        **settings,
    )
    job = UnconditionalJob.open(config, cpu_runtime())
    return job.make_batch(np.arange(16), [random_stream(0, SAMPLE_STREAM, place) for place in range(16)])


@pytest.mark.parametrize("settings", [{}, {"class_conditional": True}, {"augment_probability": 0.05}])
def test_a_batch_has_the_same_noise_in_another_order(settings):
    settings |= {"input_perturbation": 0.1}
    plain, coupled = batch_of(**settings), batch_of(**settings, noise_coupling="optimal_transport")
    for name in plain.keys() - {"noise", "input_noise"}:
        np.testing.assert_array_equal(plain[name], coupled[name])
    told = [plain[name] for name in ("labels", "augmentation") if name in plain]
    order = nearest_order(plain["images"], plain["noise"], told)
    assert (order != np.arange(16)).any()
    for name in ("noise", "input_noise"):
        np.testing.assert_array_equal(coupled[name], plain[name][order])


@pytest.mark.parametrize("objective", ["auto", "ddpm"])
def test_it_is_for_flow_matching_alone(digits_flags, tmp_path, objective):
    flags = ["--objective", objective, "--noise_coupling", "optimal_transport", "--output_dir", tmp_path / "run"]
    result = run_program("train", *digits_flags, *flags)
    assert result.returncode == 2 and "error: --noise_coupling" in result.stderr, result.stderr
    assert "--objective flow_matching" in result.stderr and not (tmp_path / "run").exists()

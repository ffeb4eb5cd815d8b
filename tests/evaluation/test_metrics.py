"""The metrics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.statistics import MetricError, Statistics, load_statistics, save_statistics

GENERATOR = np.random.default_rng(11)


def statistics_of(rows, logits=None, batch_size=None, keeps_features=True):
    found = Statistics(rows.shape[1], keeps_features)
    for start in range(0, len(rows), batch_size or len(rows)):
        numbers = range(start, min(start + (batch_size or len(rows)), len(rows)))
        part = slice(numbers.start, numbers.stop)
        found.add(rows[part], None if logits is None else logits[part], numbers, len(rows))
    return found


def random_covariance(width):
    root = GENERATOR.standard_normal((width, width))
    return root @ root.T / width


def test_the_distance_of_gaussians_whose_covariances_commute():
    """With a common eigenbasis the root is taken number by number."""
    basis, _ = np.linalg.qr(GENERATOR.standard_normal((5, 5)))
    a, b = GENERATOR.uniform(0, 3, (2, 5))
    a[0] = 0.0  # singular
    means = GENERATOR.standard_normal((2, 5))
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = metrics.frechet_distance(means[0], (basis * a) @ basis.T, means[1], (basis * b) @ basis.T)
    assert found == pytest.approx(expected, rel=1e-7)  # roots of what should be 0 are 1e-8


def test_the_distance_of_any_gaussians_from_the_eigenvalues_of_the_product():
    a, b = random_covariance(20), random_covariance(20)
    zero = np.zeros(20)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real)
    assert metrics.frechet_distance(zero, a, zero, b) == pytest.approx(np.trace(a + b) - 2 * roots.sum(), rel=1e-9)
    assert metrics.frechet_distance(zero, a, zero, a) == pytest.approx(0, abs=1e-9)


def test_mean_and_covariance_are_numpys():
    rows = GENERATOR.normal(3, 2, (200, 7)).astype(np.float32)
    found = statistics_of(rows, batch_size=33)
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9)


def test_batches_and_their_order_leave_no_trace():
    rows = GENERATOR.normal(1, 1, (300, 6)).astype(np.float32)
    logits = GENERATOR.standard_normal((300, 9))
    real = statistics_of(GENERATOR.normal(0, 1, (250, 6)).astype(np.float32))
    results = []
    for batch_size, backwards in ((300, False), (7, False), (50, True)):
        whole = Statistics(6, True)
        for start in sorted(range(0, 300, batch_size), reverse=backwards):
            numbers = range(start, min(start + batch_size, 300))
            part = slice(numbers.start, numbers.stop)
            whole.add(rows[part], logits[part], numbers, 300)
        np.testing.assert_array_equal(whole.rows(), rows)
        wanted = ("fid", "kid", "precision_recall", "inception_score")
        results.append(metrics.compute_metrics(wanted, real, whole))
    for found in results[1:]:
        assert found == pytest.approx(results[0], rel=1e-10)


def test_fid_of_a_set_against_itself_is_nothing_and_against_a_shifted_one_the_shift():
    rows = GENERATOR.standard_normal((400, 8)).astype(np.float32)
    found = statistics_of(rows)
    assert metrics.fid(found, found) == pytest.approx(0, abs=1e-8)
    assert metrics.fid(found, statistics_of(rows + np.float32(0.5))) == pytest.approx(8 * 0.25, rel=1e-5)


def test_fid_of_too_few_is_refused_with_advice_or_forced():
    few = statistics_of(GENERATOR.standard_normal((8, 8)).astype(np.float32))
    many = statistics_of(GENERATOR.standard_normal((80, 8)).astype(np.float32))
    with pytest.raises(MetricError, match=r"8 images are too few for .* width 8.*--metrics kid, or --force"):
        metrics.fid(many, few)
    assert metrics.fid(many, few, force=True) > 0


def kernel(x, y):
    return (x @ y / len(x) + 1) ** 3


def test_squared_mmd_term_by_term():
    a, b = GENERATOR.standard_normal((4, 3)), GENERATOR.standard_normal((3, 3))
    within = sum(kernel(a[i], a[j]) for i in range(4) for j in range(4) if i != j) / 12
    within += sum(kernel(b[i], b[j]) for i in range(3) for j in range(3) if i != j) / 6
    across = sum(kernel(x, y) for x in a for y in b) / 12
    assert metrics.squared_mmd(a, b) == pytest.approx(within - 2 * across, rel=1e-12)


def test_kid_is_unbiased():
    """Over many draws from one distribution its mean is 0 within three standard errors, however few the rows are."""
    found = [metrics.squared_mmd(*GENERATOR.standard_normal((2, 10, 4))) for _ in range(3000)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_kid_takes_subsets_and_the_same_ones_each_time(monkeypatch):
    monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", 20)
    rows = GENERATOR.standard_normal((2, 60, 4)).astype(np.float32)
    first = metrics.kid(rows[0], rows[1] + 1, seed=3)
    assert first == metrics.kid(rows[0], rows[1] + 1, seed=3) != metrics.kid(rows[0], rows[1] + 1, seed=4)
    assert first[0] == pytest.approx(metrics.squared_mmd(rows[0], rows[1] + 1), abs=3 * first[1])


def test_precision_and_recall_of_constructed_sets():
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2)
    assert metrics.precision_recall(grid, grid) == (1.0, 1.0)
    assert metrics.precision_recall(grid, grid + 1000) == (0.0, 0.0)
    # Fakes from a corner only: all are right, and what they miss of the real ones is known.
    corner = grid[(grid < 5).all(1)]
    precision, recall = metrics.precision_recall(grid, corner)
    # Third neighbours in the corner are at distance 1 inside and on an edge, and at sqrt(2) in its corners.
    assert precision == 1.0
    beyond = {(5.0, y) for y in range(5)} | {(x, 5.0) for x in range(5)} | {(5.0, 5.0)}
    assert recall == pytest.approx((25 + len(beyond)) / 100)
    # Half of the fakes are far away.
    assert metrics.precision_recall(grid, np.concatenate([grid, grid + 1000]))[0] == 0.5


def test_inception_score_of_known_probabilities():
    certain = np.full((100, 10), -1e9)
    certain[np.arange(100), np.arange(100) % 10] = 0.0
    found = statistics_of(np.zeros((100, 2), np.float32), certain)
    assert metrics.inception_score(found) == pytest.approx((10.0, 0.0), abs=1e-6)  # each class once in each split
    unsure = statistics_of(np.zeros((100, 2), np.float32), np.zeros((100, 10)))
    assert metrics.inception_score(unsure) == pytest.approx((1.0, 0.0), abs=1e-9)


@pytest.mark.parametrize("keeps_features", [True, False])
def test_files_hold_all_of_it(tmp_path, keeps_features):
    rows, logits = GENERATOR.standard_normal((30, 4)).astype(np.float32), GENERATOR.standard_normal((30, 5))
    found = statistics_of(rows, logits, 7, keeps_features)
    save_statistics(found, {"network": "x"}, tmp_path / "s.npz")
    again, about = load_statistics(tmp_path / "s.npz")
    assert about == {"network": "x"}
    for name, values in found.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.parametrize("content", [None, b"", b"not an npz", "other"])
def test_other_files_are_told_in_one_line(tmp_path, content):
    path = tmp_path / "s.npz"
    if content == "other":
        np.savez(path, mu=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(MetricError, match=r"s.npz: (no such file|holds no statistics)"):
        load_statistics(path)


def statistics_file(path, **changes):
    statistics = Statistics(4, keeps_features=True)
    statistics.add(np.ones((3, 4), np.float32), np.ones((3, 5), np.float32), range(3), 3)
    arrays = {**statistics.arrays(), "about": np.array("{}"), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"about": np.array("[]")},
        {"about": np.array("{")},
        {"total": np.ones((2, 2))},
        {"products": np.ones((4, 3))},
        {"products": None},
        {"features": np.ones((3, 5), np.float32)},
        {"numbers": np.ones(4)},
        {"shares": np.ones(3)},
        {"count": np.array(-1)},
        {"count": np.array("x")},
    ],
)
def test_statistics_of_other_shapes_are_refused(tmp_path, changes):
    assert load_statistics(statistics_file(tmp_path / "good.npz"))[0].rows().shape == (3, 4)
    with pytest.raises(MetricError, match="holds no statistics of this program"):
        load_statistics(statistics_file(tmp_path / "bad.npz", **changes))

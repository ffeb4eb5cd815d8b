"""Averages of any width from snapshots of two: closed forms, then a run, its resume and the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import run_program
from safetensors.numpy import load_file, save_file

from mindone_ddpm.averages.power import KEPT_WIDTHS, Average, exponent, overlap, power_decays, shares
from mindone_ddpm.averages.snapshots import Snapshots, snapshot_path, steps_of
from mindone_ddpm.common.errors import ConfigError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_of_the_paper(width, gamma):
    assert exponent(width) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.2, 0.25])
def test_a_width_is_the_deviation_of_the_weights_over_time(width):
    gamma = exponent(width)
    times = (np.arange(200_000) + 0.5) / 200_000
    density = (gamma + 1) * times**gamma
    mean = (density * times).mean()
    assert np.sqrt((density * (times - mean) ** 2).mean()) == pytest.approx(width, rel=1e-4)
    # The decays, applied one after the other, give these weights.
    decays = power_decays(400, width)
    weights = np.array([(1 - decays[s]) * np.prod(decays[s + 1 :]) for s in range(400)])
    expected = np.diff(np.linspace(0, 1, 401) ** (gamma + 1))
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_an_overlap_is_the_integral():
    a, b = Average(300, 0.05), Average(500, 0.12)
    times = (np.arange(500_000) + 0.5) * 500 / 500_000

    def density(average):
        gamma = exponent(average.width)
        return np.where(times <= average.step, (gamma + 1) * times**gamma / average.step ** (gamma + 1), 0.0)

    integral = (density(a) * density(b)).mean() * 500
    assert overlap(a, b) == overlap(b, a) == pytest.approx(integral, rel=1e-4)


@pytest.mark.parametrize("width", [0.04, 0.05, 0.075, 0.10, 0.15, 0.2, 0.25])
def test_an_average_of_known_width_comes_out_of_two_others(width):
    """A random walk with drift stands for a weight; averages of two widths are kept eight times."""
    steps, every = 2000, 250
    walk = np.cumsum(np.random.default_rng(0).standard_normal((steps, 50)) + 0.02, axis=0)

    def averaged(of_width, end):
        total = np.zeros(50)
        for value, decay in zip(walk[:end], power_decays(steps, of_width), strict=False):
            total = decay * total + (1 - decay) * value
        return total

    kept = [Average(end, kept_width) for end in range(every, steps + 1, every) for kept_width in KEPT_WIDTHS]
    values = np.stack([averaged(one.width, one.step) for one in kept])
    found = shares(kept, Average(steps, width)) @ values
    expected, plain = averaged(width, steps), walk[-1]
    error = np.sqrt(np.square(found - expected).mean() / np.square(plain - expected).mean())
    print(f"width {width}: error {error:.1e} of the distance between the average and the last weights")
    assert error < (1e-6 if width in KEPT_WIDTHS else 0.06)


@pytest.fixture(scope="module")
def run(digits_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("averages") / "run"
    flags = ["--max_train_steps", 20, "--snapshot_steps", 5, "--checkpointing_steps", 10, "--output_dir", folder]
    result = run_program("train", *digits_flags, *flags)
    assert result.returncode == 0, result.stderr
    assert "4 snapshots of two" in result.stdout
    return folder, flags


def test_snapshots_and_averages_after_a_resume_are_the_same_bits(run, digits_flags, tmp_path):
    folder, flags = run
    assert steps_of(folder) == [5, 10, 15, 20]
    before = {step: snapshot_path(folder, step).read_bytes() for step in steps_of(folder)}
    for name in ("checkpoint-20", "model_index.json"):
        path = folder / name
        path.rename(tmp_path / name)
    result = run_program("train", *digits_flags, *flags, "--resume_from_checkpoint", folder / "checkpoint-10")
    assert result.returncode == 0, result.stderr
    assert {step: snapshot_path(folder, step).read_bytes() for step in steps_of(folder)} == before
    old, new = (
        load_file(path / "training_state.safetensors")
        for path in (tmp_path / "checkpoint-20", folder / "checkpoint-20")
    )
    assert any(name.startswith("average 0.050.") for name in old)
    assert old.keys() == new.keys() and all((old[name] == new[name]).all() for name in old)


def test_the_command_writes_the_pipeline_of_any_width(run, tmp_path):
    folder, _ = run
    for width in (0.05, 0.15):
        out = tmp_path / f"{width}"
        result = run_program("average", folder, "--width", width, "--output_dir", out)
        assert result.returncode == 0, result.stderr
        assert json.loads((out / "average.json").read_text()) == {"width": width, "step": 20, "snapshots": 4}
    kept, pipeline = load_file(snapshot_path(folder, 20)), load_file(tmp_path / "0.05" / WEIGHTS)
    for name, array in pipeline.items():
        np.testing.assert_allclose(array, kept[f"0.050/unet/{name}"].astype(np.float32), rtol=1e-3, atol=1e-4)
    assert pipeline.keys() == load_file(folder / WEIGHTS).keys()
    other = load_file(tmp_path / "0.15" / WEIGHTS)
    assert max(np.abs(other[name] - pipeline[name]).max() for name in pipeline) > 1e-3
    sampled = run_program(
        "sample", "--model", tmp_path / "0.15", "--num_images", 2, "--output_dir", tmp_path / "images"
    )
    assert sampled.returncode == 0, sampled.stderr


def test_the_best_width_is_found_by_measuring(run, tmp_path):
    folder, _ = run
    flags = ["--best", "kid", "--widths", "0.05,0.2", "--num_samples", 70, "--features", "digits"]
    result = run_program("average", folder, *flags, "--output_dir", tmp_path / "best")
    assert result.returncode == 0, result.stderr
    about = json.loads((tmp_path / "best" / "average.json").read_text())
    assert set(about["tried"]) == {"0.05", "0.2"} and about["metric"] == "kid"
    assert about["width"] == float(min(about["tried"], key=about["tried"].get))
    assert (tmp_path / "best" / "model_index.json").is_file() and not (tmp_path / "best" / ".trial").exists()


def test_what_cannot_be_averaged_is_told_in_one_line(run, tmp_path, digits_flags):
    folder, _ = run
    plain = tmp_path / "plain"
    for flags, line in (
        ([folder], "--width or --best: give one of them"),
        ([folder, "--width", 0.3], "--width 0.3: must be at most 0.25"),
        ([folder, "--width", 0.03], "--width 0.03: must be at least 0.04"),
        ([folder, "--width", 0.05, "--step", 7], "--step 7: "),
        ([folder, "--best", "fid", "--widths", "0.05,x"], "--widths 0.05,x: must be numbers"),
        ([plain, "--width", 0.05], "has no snapshots; train with --snapshot_steps"),
    ):
        result = run_program("average", *flags)
        assert result.returncode == 2 and line in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
    damaged = tmp_path / "damaged"
    (damaged / "snapshots").mkdir(parents=True)
    (damaged / "model_index.json").write_text("{}")
    (damaged / "snapshots" / "step-00000005.safetensors").write_bytes(b"junk")
    result = run_program("average", damaged, "--width", 0.05)
    assert result.returncode == 2 and "the snapshot cannot be read" in result.stderr


@pytest.mark.parametrize("change", ["shape", "missing"])
def test_snapshots_of_different_networks_are_not_summed(run, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    path = folder / "snapshots" / "step-00000010.safetensors"
    arrays = load_file(path)
    name = next(name for name, array in arrays.items() if array.ndim == 4)
    array = arrays.pop(name)
    save_file(arrays if change == "missing" else {**arrays, name: array[..., 0]}, path)
    with pytest.raises(ConfigError, match=r"step-00000010\.safetensors: has not the parameters of the others"):
        Snapshots(folder).average(0.08, "unet")

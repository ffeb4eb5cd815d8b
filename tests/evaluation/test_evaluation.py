"""The command that measures: features against pytorch-fid, folders, models, ranks, interruptions, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, peer_python, run_program
from PIL import Image

from mindone_ddpm.cli import make_parser
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.parse import from_arguments
from mindone_ddpm.data.images import DataError
from mindone_ddpm.evaluation import digits_network, features, inception, measure, metrics, statistics
from mindone_ddpm.evaluation.commands import evaluate_to_folder
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.evaluation.convert import INCEPTION_SHAPES, check_inception_shapes
from mindone_ddpm.evaluation.image_sources import ImageFolder
from mindone_ddpm.sampling import generate as generate_module


def write_images(folder: Path, count: int, seed: int, shape=(48, 40, 3)) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        blocks = np.kron(generator.integers(0, 255, (6, 5, shape[2])), np.ones((8, 8, 1)))[: shape[0], : shape[1]]
        pixels = (blocks + generator.normal(seed * 5, 20, blocks.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels.squeeze()).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Two folders, random weights as pytorch-fid publishes them, and what it makes of them."""
    folder = tmp_path_factory.mktemp("fid")
    folders = [write_images(folder / name, 10, seed) for seed, name in enumerate("ab")]
    python = peer_python()
    environment = {**os.environ, "PYTHONPATH": str(python.parent.parent / "extra")}
    subprocess.run(
        [python, str(ROOT / "tests" / "programs" / "peer_fid.py"), folder, *folders], check=True, env=environment
    )
    subprocess.run(
        [python, "-m", "mindone_ddpm", "convert_inception", folder / "weights.pth", folder / "weights.safetensors"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return folder


def test_features_and_fid_are_those_of_pytorch_fid(reference):
    network = inception.load_inception(str(reference / "weights.safetensors"), "pytorch-fid")
    expected = np.load(reference / "reference.npz")
    sides = []
    for name, key in (("a", "first"), ("b", "second")):
        folder = ImageFolder(str(reference / name), "--real")
        rows = np.concatenate([network(folder(list(range(first, first + 5))))[0] for first in (0, 5)])
        difference = np.abs(rows - expected[key]).max()
        print(f"largest difference of features {difference:.2g}, of at most {np.abs(expected[key]).max():.2g}")
        assert difference <= 1e-4
        sides.append(statistics.Statistics(network.width))
        sides[-1].add(rows, None, range(10), 10)
    distance = metrics.fid(*sides, force=True)
    print(f"FID {distance:.6f}, pytorch-fid {float(expected['fid']):.6f}")
    assert distance == pytest.approx(float(expected["fid"]), abs=1e-3)


@pytest.mark.slow
def test_the_command_gives_that_figure_too(reference, tmp_path):
    flags = ["evaluate", "--fake", reference / "b", "--inception_weights", reference / "weights.safetensors"]
    flags += ["--metrics", "fid,kid,precision_recall,inception_score", "--batch_size", 5, "--device", "CPU"]
    first = run_program(*flags, "--real", reference / "a", "--output_dir", tmp_path / "refused")
    assert first.returncode == 1
    assert "fid: 10 images are too few for features of width 2048" in first.stderr and "kid" in first.stderr
    result = run_program(
        *flags, "--real", reference / "a", "--force", "--output_dir", tmp_path / "out",
        "--save_real_statistics", tmp_path / "real.npz",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "warning: fid of 10 images" in result.stderr
    about = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = float(np.load(reference / "reference.npz")["fid"])
    assert about["metrics"]["fid"] == pytest.approx(expected, abs=1e-3)
    assert about["metrics"]["inception_score"] >= 1 and 0 <= about["metrics"]["recall"] <= 1
    assert about["num_samples"] == about["num_real"] == 10 and "resize pytorch-fid" in about["features"]
    # Against the file of statistics it is the same figure; the other resize is another network's figure.
    again = run_program(*flags, "--real_statistics", tmp_path / "real.npz", "--force", "--output_dir", tmp_path / "two")
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["metrics"] == about["metrics"], again.stderr
    other = run_program(*flags, "--real_statistics", tmp_path / "real.npz", "--force", "--resize", "clean")
    assert other.returncode == 2 and "resize pytorch-fid, but the features here" in other.stderr


def test_resizing_bilinear_by_hand():
    assert features.bilinear_matrix(4, 4) == pytest.approx(np.eye(4))
    np.testing.assert_allclose(features.bilinear_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # When it shrinks, nothing is averaged beyond the two nearest.
    np.testing.assert_allclose(features.bilinear_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_resizing_clean_averages_what_it_shrinks():
    stripes = np.zeros((1, 598, 598, 3), np.uint8)
    stripes[:, ::2] = 200
    values = features.resize_clean(stripes)[0, :, 100:200, 100:200]
    np.testing.assert_allclose(values, (100 - 128) / 128, atol=0.05)
    assert features.resize_clean(np.full((1, 7, 9, 3), 255, np.uint8)).max() == np.float32(127 / 128)


def test_weights_of_another_network(tmp_path):
    from safetensors.numpy import save_file

    save_file({"conv.weight": np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="are of another network"):
        inception.load_inception(str(tmp_path / "w.safetensors"), "clean")
    # The Inception-v3 of others has the same names.
    alike = {name: np.zeros(shape, np.float32) for name, shape in INCEPTION_SHAPES.items()}
    check_inception_shapes(alike)
    save_file({**alike, "fc.weight": np.zeros((1000, 2048), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"another network \(fc.weight is \(1000, 2048\) instead of \(1008, 2048"):
        inception.load_inception(str(tmp_path / "w.safetensors"), "clean")
    (tmp_path / "x.safetensors").write_text("no")
    with pytest.raises(ConfigError, match="is no safetensors file"):
        inception.load_inception(str(tmp_path / "x.safetensors"), "clean")
    with pytest.raises(ConfigError, match="no such file"):
        inception.load_inception(str(tmp_path / "y.safetensors"), "clean")


# --- digits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(digits_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    result = run_program("train", *digits_flags, "--max_train_steps", 60, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


def flags_for(model: Path, folder: Path, *more: object) -> list[object]:
    return [
        *("evaluate", "--model", model, "--dataset_name", "digits", "--features", "digits", "--num_samples", 70),
        *("--num_inference_steps", 4, "--output_dir", folder, *more),
    ]


def from_flags(*flags: object) -> EvaluateConfig:
    return from_arguments(EvaluateConfig, make_parser().parse_args(["evaluate", *map(str, flags), "--device", "CPU"]))


def figures_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def test_the_digits_network_knows_digits_and_is_kept(tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.setenv("MINDONE_DDPM_CACHE", str(tmp_path))
    network = digits_network.load_digits_network()
    digits = load_digits()
    pixels = (digits.images / 16 * 255).round().astype(np.uint8)[..., None]
    rows, logits = network(pixels)
    assert (logits.argmax(1) == digits.target).mean() > 0.99 and rows.shape == (1797, 32)
    large = pixels[:50].repeat(4, 1).repeat(4, 2)  # other sizes are averaged down to 8x8
    np.testing.assert_allclose(network(large)[0], rows[:50], atol=1e-4)
    monkeypatch.setattr(digits_network, "train_digits_network", lambda: pytest.fail("trained again"))
    assert digits_network.load_digits_network().identity == network.identity


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "out"
    result = run_program(*flags_for(model, folder, "--metrics", "fid,kid,precision_recall", "--batch_size", 70))
    assert result.returncode == 0, result.stderr
    assert "digits_frechet_distance" in result.stdout and "metrics.json" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json"]
    return folder


def test_figures_of_digits_have_names_of_their_own(alone):
    found = figures_of(alone)
    assert found.keys() == {
        "digits_frechet_distance",
        "digits_kernel_distance",
        "digits_kernel_distance_std",
        "digits_precision",
        "digits_recall",
    }
    assert found["digits_frechet_distance"] > 1


def test_neither_batches_nor_ranks_change_the_figures(alone, model, tmp_path):
    wanted = ("--metrics", "fid,kid,precision_recall")
    small = run_program(*flags_for(model, tmp_path / "small", *wanted, "--batch_size", 16))
    assert small.returncode == 0, small.stderr
    ranks = run_program("launch", "-n", 2, *flags_for(model, tmp_path / "ranks", *wanted, "--batch_size", 16))
    assert ranks.returncode == 0, ranks.stderr
    # The same batches on one rank or two: only the order of the sums differs.
    assert figures_of(tmp_path / "ranks") == pytest.approx(figures_of(tmp_path / "small"), rel=1e-9)
    # In batches of another size the network itself rounds differently.
    assert figures_of(tmp_path / "small") == pytest.approx(figures_of(alone), rel=1e-3)


def test_interrupted_it_goes_on(alone, model, tmp_path, monkeypatch):
    config = EvaluateConfig(
        model=str(model), dataset_name="digits", features="digits", num_samples=70, num_inference_steps=4,
        output_dir=str(tmp_path / "out"), metrics="fid,kid,precision_recall", batch_size=16, device="CPU",
    )  # fmt: skip
    generate, calls = generate_module.generate, []

    def interrupted(*arguments, **options):
        calls.append(options["sample_ids"][0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr(generate_module, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_to_folder(config)
    found = evaluate_to_folder(config)
    assert calls == [0, 16, 32, 32, 48, 64]  # what was done is not done again
    assert found == pytest.approx(figures_of(alone), rel=1e-3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json"]


def test_an_interruption_amid_a_batch_counts_nothing_twice(model, alone, tmp_path, monkeypatch):
    add, calls = statistics.Statistics.add, []

    def interrupted(self, *arguments):
        add(self, *arguments)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(statistics.Statistics, "add", interrupted)
    wanted = ("--metrics", "fid,kid,precision_recall")
    config = from_flags(*flags_for(model, tmp_path / "out", "--batch_size", 16, *wanted)[1:])
    with pytest.raises(KeyboardInterrupt):
        evaluate_to_folder(config)
    assert evaluate_to_folder(config) == pytest.approx(figures_of(alone), rel=1e-3)


def test_images_that_have_changed_are_read_again(tmp_path):
    """The first command is interrupted after it has extracted the features."""
    write_images(tmp_path / "real", 40, 0)
    write_images(tmp_path / "fake", 40, 0)
    flags = ["--fake", tmp_path / "fake", "--real", tmp_path / "real", "--features", "digits", "--metrics", "kid"]
    config = from_flags(*flags, "--output_dir", tmp_path / "out")

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metrics, "compute_metrics", interrupted)
        evaluate_to_folder(config)
    assert list((tmp_path / "out").glob(".statistics-*"))
    for path in (tmp_path / "fake").iterdir():
        Image.new("RGB", (40, 48), "white").save(path)
    changed = evaluate_to_folder(config)["digits_kernel_distance"]
    shutil.rmtree(tmp_path / "out")
    assert changed == evaluate_to_folder(config)["digits_kernel_distance"] != 0


def test_files_of_statistics_cut_short(tmp_path):
    whole = statistics.Statistics(4)
    whole.add(np.ones((3, 4)), None, range(3), 3)
    statistics.save_statistics(whole, {}, tmp_path / "s.npz")
    content = (tmp_path / "s.npz").read_bytes()
    for length in (100, len(content) // 2, len(content) - 10):
        (tmp_path / "s.npz").write_bytes(content[:length])
        with pytest.raises(statistics.MetricError, match="holds no statistics"):
            statistics.load_statistics(tmp_path / "s.npz")
        assert statistics.load_cached(tmp_path / "s.npz") is None


def test_real_images_are_resized_as_in_training(tmp_path):
    """A wide image is squashed where training squashes, and cropped to its middle where training crops."""
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    (tmp_path / "wide").mkdir()
    Image.fromarray(wide).save(tmp_path / "wide" / "0.png")
    unet = type("UNet", (), {"config": type("Config", (), {"in_channels": 3, "sample_size": 8})})
    shares = {}
    for mode in ("squash", "crop"):
        config = from_flags("--model", "m", "--train_data_dir", tmp_path / "wide", "--resize_mode", mode)
        shares[mode] = (measure.real_records(config, unet).image(0) > 127).mean()
    assert shares["crop"] == 1 and shares["squash"] == pytest.approx(1 / 3, abs=0.15)


def test_features_are_kept_when_asked(model, tmp_path):
    result = run_program(*flags_for(model, tmp_path / "out", "--metrics", "fid", "--keep_features"))
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "out" / "features.npz")["features"].shape == (70, 32)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_folders_that_will_not_do(tmp_path):
    with pytest.raises(DataError, match="there are no images in it"):
        ImageFolder(str(tmp_path), "--real")
    write_images(tmp_path / "sizes", 3, 0)
    Image.new("RGB", (10, 12)).save(tmp_path / "sizes" / "zz.png")
    folder = ImageFolder(str(tmp_path / "sizes"), "--fake")
    with pytest.raises(DataError, match=r"zz.png is 10x12 with 3 channel\(s\), but .*000.png is 40x48"):
        folder(list(range(4)))
    shutil.copytree(tmp_path / "sizes", tmp_path / "channels")
    Image.new("L", (40, 48)).save(tmp_path / "channels" / "zz.png")
    with pytest.raises(DataError, match=r"with 1 channel\(s\), but"):
        ImageFolder(str(tmp_path / "channels"), "--fake")(list(range(4)))
    (tmp_path / "sizes" / "001.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"001.png: not a readable image"):
        folder([1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "m", "--fake", "f", "--real", "."], "--model or --fake: give one of them"),
        (["--fake", "."], "--dataset_name, --train_data_dir, --real or --real_statistics: give the real images"),
        (["--fake", ".", "--real", "nowhere"], "--real nowhere: no such folder"),
        (["--fake", ".", "--real", ".", "--dataset_name", "digits"], "give only one of them"),
        (["--model", "m", "--real", ".", "--num_samples", "0"], "--num_samples 0: must be at least 1"),
        (["--model", "m", "--real", ".", "--metrics", "fid,lpips"], "--metrics fid,lpips: must be one of"),
        (["--fake", ".", "--real", "."], "--inception_weights: give the Inception-v3"),
        (["--fake", ".", "--real", ".", "--num_samples", "5"], "--num_samples: has no meaning with --fake"),
        (
            ["--model", "m", "--real", ".", "--max_train_samples", "5"],
            "--max_train_samples: has no meaning with --real",
        ),
        (["--fake", ".", "--real", ".", "--features", "digits", "--resize", "clean"], "--resize: has no meaning with"),
    ],
)
def test_wrong_use_is_told_at_once(flags, message, tmp_path):
    result = run_program("evaluate", *flags, "--output_dir", tmp_path / "out")
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval_metrics", "fid"], "--eval_metrics: give --inception_weights"),
        (["--save_best", "kid"], "--save_best kid: needs --eval_metrics kid"),
        (
            ["--save_best", "recall", "--eval_metrics", "kid"],
            "--save_best recall: needs --eval_metrics precision_recall",
        ),
        (["--eval_metrics_steps", 5], "--eval_metrics_steps: has a meaning with --eval_metrics only"),
        (
            ["--eval_metrics", "fid", "--eval_features", "digits", "--eval_num_samples", 20],
            "fid: 20 images are too few",
        ),
    ],
)
def test_wrong_use_in_training_is_told_before_it(flags, message, digits_flags, tmp_path):
    result = run_program("train", *digits_flags, "--max_train_steps", 2, *flags, "--output_dir", tmp_path / "run")
    assert result.returncode in (1, 2) and message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from mindone_ddpm.config import TrainingConfig
from mindone_ddpm.data import (
    BatchSource,
    DataProblem,
    Plan,
    batches,
    convert_channels,
    decode_image,
    epoch_order,
    make_loader,
    open_records,
    random_stream,
    resize,
)
from mindone_ddpm.unconditional import UnconditionalJob


def folder_config(folder, **values) -> TrainingConfig:
    return TrainingConfig(
        train_data_dir=str(folder), **{"image_size": 16, "cache_dir": str(folder) + "-cache", **values}
    )


def digits_config(**values) -> TrainingConfig:
    return TrainingConfig(dataset_name="digits", **{"image_size": 8, "channels": 1, **values})


# --- where images come from


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    records = open_records(digits_config())
    assert len(records) == 1797
    expected = (load_digits().images[5] * (255 / 16)).round()
    np.testing.assert_array_equal(records.picture(5)[0], expected)
    assert not records.random_flip


def test_image_folder_nested_flat_and_with_metadata(image_folder):
    assert len(open_records(folder_config(image_folder))) == 12
    flat = image_folder / "cold"
    assert len(open_records(folder_config(flat))) == 6
    rows = [{"file_name": path.name, "text": path.stem} for path in sorted(flat.glob("*.png"))]
    (flat / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(open_records(folder_config(flat, cache_dir=str(image_folder) + "-other"))) == 6


def test_saved_data_set_and_parquet(image_folder, tmp_path):
    dataset = open_records(folder_config(image_folder)).dataset
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "parquet" / "part.parquet")
    first = open_records(TrainingConfig(dataset_name=str(tmp_path / "saved"), image_size=16))
    second = open_records(folder_config(tmp_path / "parquet"))
    third = open_records(folder_config(tmp_path / "saved"))
    assert len(first) == len(second) == len(third) == 12
    np.testing.assert_array_equal(first.picture(3), second.picture(3))


def test_folders_named_like_splits_hide_no_others(tmp_path):
    for name in ("train", "plane", "car"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "all" / name / f"{number}.png")
    assert len(open_records(folder_config(tmp_path / "all"))) == 6
    for name in ("train", "test"):
        (tmp_path / "split" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "split" / name / "0.png")
    assert len(open_records(folder_config(tmp_path / "split"))) == 1
    assert len(open_records(folder_config(tmp_path / "split", dataset_split="test"))) == 1


def test_parquet_has_splits_and_binary_columns(image_folder, tmp_path):
    dataset = open_records(folder_config(image_folder)).dataset
    folder = tmp_path / "parquet"
    dataset.select(range(7)).to_parquet(folder / "train-00000.parquet")
    dataset.select(range(7, 12)).to_parquet(folder / "test-00000.parquet")
    assert len(open_records(folder_config(folder))) == 7
    assert len(open_records(folder_config(folder, dataset_split="test"))) == 5

    from datasets import Dataset

    files = [path.read_bytes() for path in sorted(image_folder.rglob("*.png"))]
    Dataset.from_dict({"photo": files}).to_parquet(tmp_path / "binary" / "train.parquet")
    with pytest.raises(DataProblem, match="no column of images found"):
        open_records(folder_config(tmp_path / "binary"))
    records = open_records(folder_config(tmp_path / "binary", image_column="photo"))
    assert records.picture(11).shape == (3, 16, 16)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_from_end_to_end(image_folder, channels, mode):
    records = open_records(folder_config(image_folder, channels=channels))
    assert records.picture(0).shape == (channels, 16, 16)
    assert records.picture(0).dtype == np.uint8


def test_image_column_is_named_or_found(image_folder):
    from datasets import Image as ImageFeature

    dataset = open_records(folder_config(image_folder)).dataset
    dataset = dataset.add_column("number", list(range(12)))
    path = image_folder.parent / "two"
    dataset.add_column("other", dataset["image"][:]).cast_column("other", ImageFeature()).save_to_disk(path)
    with pytest.raises(DataProblem, match=r"several columns hold images \(image, other\)"):
        open_records(TrainingConfig(dataset_name=str(path)))
    assert open_records(TrainingConfig(dataset_name=str(path), image_column="other")).column == "other"
    with pytest.raises(DataProblem, match="--image_column number: is not a column of images"):
        open_records(TrainingConfig(dataset_name=str(path), image_column="number"))
    with pytest.raises(DataProblem, match="--image_column nothing: the data set has"):
        open_records(TrainingConfig(dataset_name=str(path), image_column="nothing"))


def test_problems_with_folders(tmp_path):
    with pytest.raises(DataProblem, match="no such folder"):
        open_records(folder_config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataProblem, match="the folder is empty"):
        open_records(folder_config(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    with pytest.raises(DataProblem, match="holds no images"):
        open_records(folder_config(tmp_path / "text"))
    with pytest.raises(DataProblem, match="not found or not reachable"):
        open_records(TrainingConfig(dataset_name="nobody/no-such-data-set", cache_dir=str(tmp_path)))


# --- pictures as people have them


def png(picture: Image.Image, format: str = "png", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=format, **options)
    return file.getvalue()


def test_deep_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    picture = decode_image(png(Image.fromarray(values)), None, "x")
    np.testing.assert_array_equal(np.asarray(convert_channels(picture, 1)), [[0, 100], [200, 255]])


def test_transparency_is_laid_over_white_and_kept_with_four_channels():
    picture = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(convert_channels(picture, 3))[0], [[255, 0, 0], [255, 255, 255]])
    np.testing.assert_array_equal(np.asarray(convert_channels(picture, 4))[0, 1], [255, 0, 0, 0])


def test_palette_cmyk_and_animation():
    red = Image.new("RGB", (4, 4), (250, 10, 10))
    palette = decode_image(png(red.convert("P")), None, "x")
    assert np.abs(np.asarray(convert_channels(palette, 3))[0, 0].astype(int) - [250, 10, 10]).max() < 60
    cmyk = decode_image(png(red.convert("CMYK"), "jpeg"), None, "x")
    assert np.abs(np.asarray(convert_channels(cmyk, 3))[0, 0].astype(int) - [250, 10, 10]).max() < 20
    frames = png(red, "gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert np.asarray(convert_channels(decode_image(frames, None, "x"), 3))[0, 0, 0] > 200


def test_exif_orientation_is_obeyed():
    picture = Image.fromarray(np.array([[0, 255]] * 8, dtype=np.uint8).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright = decode_image(png(picture, "jpeg", exif=exif), None, "x")
    assert upright.size == (8, 16)


@pytest.mark.parametrize("size", [(1, 1), (10_000, 3), (3, 10_000)])
@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_extreme_sizes(size, mode):
    if mode == "crop" and size == (3, 10_000):
        size = (300, 10_000)
    assert resize(Image.new("L", size), 16, mode, (0.5, 0.5)).size == (16, 16)


def test_crop_takes_the_middle_and_the_corner():
    columns = np.tile(np.arange(32, dtype=np.uint8), (16, 1))
    middle = np.asarray(resize(Image.fromarray(columns), 16, "crop", (0.5, 0.5)))
    left = np.asarray(resize(Image.fromarray(columns), 16, "crop", (0.0, 0.0)))
    np.testing.assert_array_equal(middle, columns[:, 8:24])
    np.testing.assert_array_equal(left, columns[:, :16])


def test_a_corrupt_image_is_named(image_folder):
    (image_folder / "warm" / "1.png").write_bytes(b"\x89PNG not really")
    records = open_records(folder_config(image_folder))
    with pytest.raises(DataProblem, match=r"1\.png: not a readable image"):
        records.cache(1024, show_progress=False)


# --- order and randomness


def test_streams_are_independent_of_each_other_and_of_history():
    assert random_stream(1, 2, 3).random() == random_stream(1, 2, 3).random()
    values = {
        random_stream(seed, stream, place).random() for seed in (0, 1) for stream in (1, 2) for place in (0, 1, 2)
    }
    assert len(values) == 12


def test_a_stream_does_not_run_into_the_next_position():
    long, following = random_stream(0, 2, 5).random(100_000), random_stream(0, 2, 6).random(100_000)
    assert not set(long) & set(following)


def test_epochs_are_permutations_that_differ():
    first, second = epoch_order(7, 0, 100), epoch_order(7, 1, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert (first != second).any()
    np.testing.assert_array_equal(first, epoch_order(7, 0, 100))


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(12, 4, 1), (13, 4, 1), (13, 2, 3), (7, 3, 2)])
def test_every_sample_is_seen_once_in_an_epoch(num_samples, batch_size, world_size):
    seen = []
    for rank in range(world_size):
        plan = Plan(0, num_samples, batch_size, rank, world_size)
        for number in range(plan.batches_per_epoch, 2 * plan.batches_per_epoch):
            epoch, places = plan.positions(number)
            assert epoch == 1
            seen += [place for place in places if place < num_samples]
    assert sorted(seen) == list(range(num_samples))


def make_source(config, plan, first=0, count=None) -> BatchSource:
    records = open_records(config)
    count = count or 2 * plan.batches_per_epoch
    return BatchSource(plan, UnconditionalJob(config, records).make_batch, first, count)


def test_batches_have_one_shape_range_and_weights():
    source = make_source(digits_config(), Plan(0, 1797, 64))
    images, noise, timesteps, weights = source[28]  # the last of the epoch: 5 real samples
    assert images.shape == noise.shape == (64, 1, 8, 8)
    assert images.dtype == noise.dtype == weights.dtype == np.float32
    assert timesteps.dtype == np.int32 and timesteps.min() >= 0 and timesteps.max() < 1000
    assert -1.0 <= images.min() < -0.9 and 0.9 < images.max() <= 1.0
    assert weights.sum() == 1797 - 28 * 64


def test_noise_and_timesteps_have_their_distributions():
    source = make_source(digits_config(), Plan(0, 1797, 64))
    drawn = [source[number] for number in range(28)]
    noise = np.concatenate([batch[1].ravel() for batch in drawn])
    timesteps = np.concatenate([batch[2] for batch in drawn])
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(timesteps.mean() - 499.5) < 25


def test_ranks_share_the_batches_of_one_process():
    alone = make_source(digits_config(), Plan(0, 1797, 64))
    for number in (0, 28, 29):
        parts = [make_source(digits_config(), Plan(0, 1797, 32, rank, 2))[number] for rank in range(2)]
        for together, whole in zip(zip(*parts, strict=True), alone[number], strict=True):
            real = alone[number][-1] > 0
            np.testing.assert_array_equal(np.concatenate(together)[real], whole[real])


@pytest.mark.parametrize("num_workers", [0, 2, 1000])
def test_the_loader_gives_the_source_in_order_and_from_the_middle(image_folder, num_workers):
    config = folder_config(image_folder)
    expected = make_source(config, Plan(3, 12, 5))
    later = make_source(config, Plan(3, 12, 5), first=2, count=4)
    for number, batch in enumerate(batches(make_loader(later, UnconditionalJob.columns, num_workers))):
        for found, wanted in zip(batch, expected[2 + number], strict=True):
            np.testing.assert_array_equal(found.asnumpy(), wanted)
    assert number == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_names_a_corrupt_image(image_folder, num_workers):
    (image_folder / "cold" / "4.png").write_bytes(b"\x89PNG not really")
    source = make_source(folder_config(image_folder), Plan(3, 12, 5))
    with pytest.raises(DataProblem, match=r"^\S*4\.png: not a readable image"):
        list(batches(make_loader(source, UnconditionalJob.columns, num_workers)))


def test_flips_happen_to_half_of_the_images(image_folder):
    config = folder_config(image_folder)
    records = open_records(config)
    job = UnconditionalJob(config, records)
    flipped = 0
    for position in range(200):
        images = job.make_batch(np.array([0]), [random_stream(0, 2, position)])[0][0]
        pixels = ((images + 1) * 127.5).round().astype(np.uint8)
        assert (pixels == records.picture(0)).all() or (pixels == records.picture(0)[:, :, ::-1]).all()
        flipped += not (pixels == records.picture(0)).all()
    assert 70 < flipped < 130

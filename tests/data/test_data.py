from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import cpu_runtime
from PIL import Image

from mindone_ddpm.data.images import (
    DataError,
    convert_channels,
    convert_precise_channels,
    decode_image,
    decode_precise,
    resize,
)
from mindone_ddpm.data.loader import BatchSource, Plan, batches, make_loader
from mindone_ddpm.data.open import open_records
from mindone_ddpm.data.randomness import epoch_order, random_stream
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.job import UnconditionalJob


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
    np.testing.assert_array_equal(records.image(5)[0], expected)
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
    np.testing.assert_array_equal(first.image(3), second.image(3))


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
    with pytest.raises(DataError, match="no column of images found"):
        open_records(folder_config(tmp_path / "binary"))
    records = open_records(folder_config(tmp_path / "binary", image_column="photo"))
    assert records.image(11).shape == (3, 16, 16)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_from_end_to_end(image_folder, channels, mode):
    records = open_records(folder_config(image_folder, channels=channels))
    assert records.image(0).shape == (channels, 16, 16)
    assert records.image(0).dtype == np.uint8


def test_image_column_is_named_or_found(image_folder):
    from datasets import Image as ImageFeature

    dataset = open_records(folder_config(image_folder)).dataset
    dataset = dataset.add_column("number", list(range(12)))
    path = image_folder.parent / "two"
    dataset.add_column("other", dataset["image"][:]).cast_column("other", ImageFeature()).save_to_disk(path)
    with pytest.raises(DataError, match=r"several columns hold images \(image, other\)"):
        open_records(TrainingConfig(dataset_name=str(path)))
    assert open_records(TrainingConfig(dataset_name=str(path), image_column="other")).column == "other"
    with pytest.raises(DataError, match="--image_column number: is not a column of images"):
        open_records(TrainingConfig(dataset_name=str(path), image_column="number"))
    with pytest.raises(DataError, match="--image_column nothing: the data set has"):
        open_records(TrainingConfig(dataset_name=str(path), image_column="nothing"))


def test_problems_with_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_records(folder_config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        open_records(folder_config(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="holds no images"):
        open_records(folder_config(tmp_path / "text"))
    with pytest.raises(DataError, match="not found or not reachable"):
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
    with pytest.raises(DataError, match=r"1\.png: not a readable image"):
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


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_batch_that_is_not_full_can_be_left_out(world_size):
    plans = [Plan(0, 13, 2, rank, world_size, drop_last=True) for rank in range(world_size)]
    assert plans[0].batches_per_epoch == 13 // (2 * world_size) and plans[0].samples_per_epoch == 12
    seen = [place for plan in plans for number in range(plan.batches_per_epoch) for place in plan.positions(number)[1]]
    assert sorted(seen) == list(range(12))
    assert plans[0].positions(plans[0].batches_per_epoch)[0] == 1


def make_job(config) -> UnconditionalJob:
    return UnconditionalJob.open(replace(config, preset="tiny", mixed_precision="no"), cpu_runtime())


def make_source(config, plan, first=0, count=None) -> BatchSource:
    job = make_job(config)
    return BatchSource(plan, job.make_batch, job.columns, first, count or 2 * plan.batches_per_epoch, job.records.order)


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
    for number, batch in enumerate(batches(make_loader(later, num_workers))):
        for found, wanted in zip(batch, expected[2 + number], strict=True):
            np.testing.assert_array_equal(found.asnumpy(), wanted)
    assert number == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_names_a_corrupt_image(image_folder, num_workers):
    (image_folder / "cold" / "4.png").write_bytes(b"\x89PNG not really")
    source = make_source(folder_config(image_folder), Plan(3, 12, 5))
    with pytest.raises(DataError, match=r"^\S*4\.png: not a readable image"):
        list(batches(make_loader(source, num_workers)))


def test_flips_happen_to_half_of_the_images(image_folder):
    config = folder_config(image_folder)
    job = make_job(config)
    records = job.records
    flipped = 0
    for position in range(200):
        images = job.make_batch(np.array([0]), [random_stream(0, 2, position)])["images"][0]
        pixels = ((images + 1) * 127.5).round().astype(np.uint8)
        assert (pixels == records.image(0)).all() or (pixels == records.image(0)[:, :, ::-1]).all()
        flipped += not (pixels == records.image(0)).all()
    assert 70 < flipped < 130


# --- precision, interpolation, flips


def write_png(path, values: np.ndarray) -> None:
    import cv2

    assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_images_keep_their_precision(tmp_path, channels):
    shape = (8, 8) if channels == 1 else (8, 8, 3)
    values = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    write_png(tmp_path / "deep.png", values)
    for preserve, error in ((True, 1e-7), (False, 0.6 / 255)):
        config = folder_config(tmp_path, image_size=8, channels=channels, preserve_input_precision=preserve)
        images = make_source(config, Plan(0, 1, 1))[0][0][0]
        expected = np.atleast_3d(values).transpose(2, 0, 1) / 65535
        found = images / 2 + 0.5
        worst = min(np.abs(found - expected).max(), np.abs(found[:, :, ::-1] - expected).max())  # flipped or not
        assert worst <= error if preserve else 1e-4 < worst <= error * 2


def test_float_and_8_bit_images_at_their_precision(tmp_path):
    values = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "float.tiff")
    np.testing.assert_allclose(decode_precise(None, str(tmp_path / "float.tiff"), "x")[..., 0], values, atol=1e-7)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    np.testing.assert_allclose(decode_precise(None, str(tmp_path / "rgba.png"), "x"), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_precise_channels_are_the_8_bit_ones_before_rounding(tmp_path, mode, channels):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (8, 8, 4), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    picture.save(path)
    expected = np.atleast_3d(np.asarray(convert_channels(decode_image(None, str(path), "x"), channels)))
    found = convert_precise_channels(decode_precise(None, str(path), "x"), channels)
    np.testing.assert_allclose(found * 255, expected, atol=1.01)


def test_a_picture_that_cannot_be_read_precisely_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable image"):
        decode_precise(None, str(tmp_path / "bad.png"), str(tmp_path / "bad.png"))


def test_interpolation_modes_differ_and_nearest_invents_no_colour():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 37), dtype=np.uint8))
    modes = ("nearest", "bilinear", "bicubic", "lanczos", "box")
    made = {mode: np.asarray(resize(picture, 16, "squash", (0, 0), mode)) for mode in modes}
    assert len({pixels.tobytes() for pixels in made.values()}) == 5
    assert set(made["nearest"].ravel()) <= set(np.asarray(picture).ravel())


def test_upside_down_flips(image_folder):
    config = folder_config(image_folder, random_flip=False, random_vertical_flip=True)
    records = open_records(config)
    upright, turned = records.image(3), records.image(3)[:, ::-1]
    count = 0
    for position in range(100):
        made = ((records.augmented_image(3, random_stream(0, 2, position)) + 1) * 127.5).round().astype(np.uint8)
        assert (made == upright).all() or (made == turned).all()
        count += bool((made == turned).all())
    assert 30 < count < 70


# --- classes


def test_labels_are_found_and_left_out(image_folder):
    config = digits_config(class_conditional=True, label_dropout=0.25)
    job = make_job(config)
    assert job.columns == ("images", "noise", "timesteps", "labels")
    assert job.unet.config.num_class_embeds == 11 and job.unet.config.class_names == [str(n) for n in range(10)]
    labels = np.concatenate(
        [
            job.make_batch(np.arange(50), [random_stream(0, 2, 50 * n + k) for k in range(50)])["labels"]
            for n in range(20)
        ]
    ).reshape(20, 50)
    truth = job.records.labels.numbers[:50]
    dropped = labels == 10
    assert 0.2 < dropped.mean() < 0.3
    np.testing.assert_array_equal(labels[~dropped], np.broadcast_to(truth, labels.shape)[~dropped])
    folder = open_records(folder_config(image_folder, class_conditional=True))
    assert folder.labels.names == ["cold", "warm"]


def labelled(tmp_path, values, feature) -> TrainingConfig:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    pictures = [Image.new("L", (8, 8), 10 * number) for number in range(len(values))]
    features = Features({"image": ImageFeature(), "kind": feature})
    Dataset.from_dict({"image": pictures, "kind": values}, features=features).save_to_disk(tmp_path / "set")
    return TrainingConfig(
        dataset_name=str(tmp_path / "set"), image_size=8, channels=1, class_conditional=True, label_column="kind"
    )


def test_names_and_numbers_can_be_classes(tmp_path):
    from datasets import Value

    labels = open_records(labelled(tmp_path, ["cat", "dog", "cat"], Value("string"))).labels
    assert (labels.names, labels.numbers.tolist()) == (["cat", "dog"], [0, 1, 0])
    labels = open_records(labelled(tmp_path / "b", [7, 3, 7], Value("int64"))).labels
    assert (labels.names, labels.numbers.tolist()) == (["3", "7"], [1, 0, 1])


def test_labels_that_will_not_do(tmp_path):
    from datasets import ClassLabel, Value

    with pytest.raises(DataError, match="image 2 of the data set, column 'kind': the label -1 is not among the 2"):
        open_records(labelled(tmp_path / "a", [0, 1, -1], ClassLabel(names=["a", "b"])))
    with pytest.raises(DataError, match=r"image 1 .* the label is missing"):
        open_records(labelled(tmp_path / "b", ["x", None, "y"], Value("string")))
    with pytest.raises(DataError, match="--label_column kind: holds"):
        open_records(labelled(tmp_path / "c", [0.5, 1.5], Value("float32")))
    with pytest.raises(DataError, match="--label_column: no column holds classes"):
        open_records(replace(labelled(tmp_path / "d", ["x"], Value("string")), label_column=None))
    with pytest.raises(DataError, match="--label_column image2: the data set has"):
        open_records(replace(digits_config(class_conditional=True), label_column="image2"))


# --- streams


def stream_config(folder, **values) -> TrainingConfig:
    return folder_config(folder, streaming=True, **{"max_train_samples": 12, "streaming_buffer_size": 4, **values})


def test_a_stream_gives_every_image_once_an_epoch_in_another_order(image_folder):
    records = open_records(stream_config(image_folder))
    plain = open_records(folder_config(image_folder))
    known = {plain.image(number).tobytes() for number in range(12)}
    epochs = [[records.image(12 * epoch + place).tobytes() for place in range(12)] for epoch in range(2)]
    assert [set(epoch) for epoch in epochs] == [known, known]
    assert epochs[0] != epochs[1]


def test_a_stream_is_the_same_from_the_middle_and_over_ranks(image_folder):
    alone = make_source(stream_config(image_folder), Plan(0, 12, 5))
    expected = [alone[number] for number in range(6)]
    later = make_source(stream_config(image_folder), Plan(0, 12, 5), first=4, count=2)
    for found, wanted in zip([later[0], later[1]], expected[4:], strict=True):
        for column, reference in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(column, reference)
    halves = [make_source(stream_config(image_folder), Plan(0, 12, 3, rank, 2)) for rank in range(2)]
    whole = make_source(stream_config(image_folder), Plan(0, 12, 6))
    for number in range(4):
        both = [half[number] for half in halves]
        for column, parts in zip(whole[number], zip(*both, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), column)


def test_a_stream_must_say_how_long_it_is(image_folder):
    with pytest.raises(DataError, match="does not say how long it is; give --max_train_samples"):
        open_records(stream_config(image_folder, max_train_samples=None))
    records = open_records(stream_config(image_folder, max_train_samples=20))
    with pytest.raises(DataError, match="the stream ended after 12 of 20 images; give --max_train_samples 12"):
        records.image(13)


def test_fewer_images_can_be_asked_for(image_folder):
    assert len(open_records(folder_config(image_folder, max_train_samples=5))) == 5

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import digits_config, folder_config, make_job, make_source

from mindone_ddpm.common.randomness import epoch_order, random_stream
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.loader import BatchSource, batches, make_loader
from mindone_ddpm.data.plan import Plan
from mindone_ddpm.data.scaling import to_model_range
from mindone_ddpm.jobs.unconditional.data import open_records


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


def test_a_batch_with_other_columns_than_announced_is_refused():
    source = BatchSource(Plan(0, 4, 2), lambda indices, rngs: {"images": indices}, ["images", "labels"], 0, 2)
    with pytest.raises(ValueError, match="the batch has no column labels; its columns must be images, labels, weights"):
        source[0]


@pytest.mark.parametrize("flips", [{"random_flip": True}, {"random_flip": True, "random_vertical_flip": True}])
def test_the_drawn_augmentation_is_the_one_that_is_made(image_folder, flips):
    records = open_records(folder_config(image_folder, resize_mode="crop", **flips))
    seen = set()
    for position in range(50):
        drawn = records.draw_augmentation(random_stream(0, 2, position))
        expected = records.image(3, drawn.crop_at)
        expected = expected[..., ::-1] if drawn.flip_horizontally else expected
        expected = expected[..., ::-1, :] if drawn.flip_vertically else expected
        made = records.augmented_image(3, random_stream(0, 2, position))
        np.testing.assert_array_equal(made, to_model_range(expected))
        seen.add(drawn[:2])
    assert len(seen) == 2 ** len(flips)

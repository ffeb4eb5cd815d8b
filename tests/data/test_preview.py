from __future__ import annotations

import numpy as np
from data_helpers import digits_config, folder_config
from PIL import Image

from mindone_ddpm.common.randomness import SAMPLE_STREAM, random_stream
from mindone_ddpm.data.buckets import AspectBuckets
from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.preview import draw_preview
from mindone_ddpm.data.scaling import from_model_range, to_pixels
from mindone_ddpm.jobs.preview import write_preview
from mindone_ddpm.jobs.unconditional.data import open_records
from mindone_ddpm.jobs.unconditional.recipe import apply_recipe


def test_a_preview_shows_the_first_images_of_the_run_as_stored_and_as_augmented(image_folder):
    records = open_records(folder_config(image_folder, image_size=64, resize_mode="crop"))
    page = np.asarray(draw_preview([records], 4, seed=5))
    order = records.order(5, 0)[:4]
    augmented = [
        to_pixels(from_model_range(records.augmented_image(index, random_stream(5, SAMPLE_STREAM, place))))
        for place, index in enumerate(order)
    ]
    below = np.asarray(make_grid(np.stack(augmented).transpose(0, 2, 3, 1)))
    assert page.shape == (2 * len(below) + 16, below.shape[1], 3)
    np.testing.assert_array_equal(page[-len(below) :], below)


def test_a_preview_of_several_data_sets(image_folder):
    digits = open_records(digits_config())
    photographs = open_records(folder_config(image_folder))
    both = draw_preview([digits, photographs], 4, seed=0)
    apart = [draw_preview([records], 4, seed=0) for records in (digits, photographs)]
    assert both.height == sum(page.height for page in apart) + 16
    assert both.width == max(page.width for page in apart)
    np.testing.assert_array_equal(np.asarray(both)[: apart[0].height, : apart[0].width], np.asarray(apart[0]))


def test_a_preview_of_several_sizes(tmp_path):
    for number, size in enumerate([(30, 30), (50, 30), (30, 50)]):
        Image.new("RGB", size, "black").save(tmp_path / f"{number}.png")
    records = open_records(folder_config(tmp_path, image_size=32, random_flip=False))
    records.buckets, records.resize_mode = AspectBuckets(((32, 32), (40, 24), (24, 40)), np.arange(3)), "crop"
    page = np.asarray(draw_preview([records], 3, seed=0).convert("L"))
    cells = page[-(2 * 42 + 2) :]  # two rows of white squares of 40 pixels and gaps of 2
    # In random order, the first two above: each image is black in its own size.
    parts = [cells[2:42, 2:42], cells[2:42, 44:84], cells[44:84, 2:42]]
    shapes = [(int((part < 128).any(axis=1).sum()), int((part < 128).any(axis=0).sum())) for part in parts]
    assert sorted(shapes) == [(24, 40), (32, 32), (40, 24)]


def test_a_preview_shows_what_a_recipe_chooses(image_folder, tmp_path):
    settings = {"image_size": 32, "num_epochs": 500, "recipe": "best"}
    chosen = apply_recipe(folder_config(image_folder, **settings), 12)[0].augment_probability
    assert chosen > 0
    pages = {}
    flag, plain = {"image_size": 32, "augment_probability": chosen}, {"image_size": 32}
    for name, more in {"recipe": settings, "flag": flag, "plain": plain}.items():
        write_preview(folder_config(image_folder, **more), tmp_path / f"{name}.png")
        pages[name] = (tmp_path / f"{name}.png").read_bytes()
    assert pages["recipe"] == pages["flag"] != pages["plain"]

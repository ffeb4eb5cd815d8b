from __future__ import annotations

import numpy as np
from data_helpers import digits_config, folder_config

from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.data.preview import draw_preview
from mindone_ddpm.data.randomness import SAMPLE_STREAM, random_stream
from mindone_ddpm.data.scaling import from_model_range, to_pixels
from mindone_ddpm.jobs.unconditional.data import open_records


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

from __future__ import annotations

import numpy as np

from mindone_ddpm.data.scaling import from_model_range, to_model_range, to_pixels

PIXELS = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)


def test_pixels_go_to_the_range_of_models_and_come_back():
    images = to_model_range(PIXELS)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(from_model_range(images)), PIXELS)


def test_values_of_images_that_are_not_rounded_to_8_bits():
    values = np.array([0.0, 0.25, 1.0], np.float32)
    np.testing.assert_array_equal(to_model_range(values), np.float32([-1.0, -0.5, 1.0]))
    np.testing.assert_array_equal(from_model_range(to_model_range(values)), values)


def test_what_a_model_puts_outside_the_range_is_clipped():
    values = from_model_range(np.array([-1.2, 3.0]))
    assert values.dtype == np.float32 and values.tolist() == [0.0, 1.0]

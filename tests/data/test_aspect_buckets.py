from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mindone_ddpm.data.buckets import bucket_sizes, fill_buckets
from mindone_ddpm.data.images import resize


def test_sizes_have_nearly_the_area_of_the_square():
    assert bucket_sizes(512, 64, 2.0) == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert bucket_sizes(512, 64, 1.0) == [(512, 512)]
    for width, height in bucket_sizes(1024, 64, 2.5):
        assert width % 64 == height % 64 == 0 and width * height <= 1024**2 < (max(width, height)) * (
            min(width, height) + 64
        )
    assert (1152, 896) in bucket_sizes(1024, 64, 2.0) and (1408, 704) in bucket_sizes(1024, 64, 2.0)


def test_each_image_has_the_nearest_proportions():
    found = fill_buckets([(30, 30), (500, 300), (3, 4), (9000, 10), (0, 0), (600, 580)], 512, 64, 2.0, 9)
    assert [found.size_of(index) for index in range(6)] == [
        *((512, 512), (640, 384), (448, 576), (640, 384), (512, 512), (512, 512)),
    ]
    assert found.counts() == {"448x576": 1, "512x512": 3, "640x384": 2}  # only those that are needed


def test_the_sizes_that_images_need_least_are_left_out():
    sizes = [(100, 100)] * 50 + [(130, 100)] * 3 + [(166, 100)] * 20
    assert list(fill_buckets(sizes, 512, 64, 2.0, 9).counts()) == ["512x512", "576x448", "640x384"]
    two = fill_buckets(sizes, 512, 64, 2.0, 2)
    assert two.counts() == {"512x512": 50, "640x384": 23}  # 1.3 is nearer to 1.67 than to 1, by the logarithm
    assert fill_buckets(sizes, 512, 64, 2.0, 1).counts() == {"512x512": 73}


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (32, 32)])
def test_an_image_covers_its_size_and_no_more(size):
    # A ramp over the whole width and height: what is cropped is known from its values.
    ramp = np.add.outer(np.zeros(90), np.linspace(0, 255, 120)).astype(np.uint8)
    made = np.asarray(resize(Image.fromarray(ramp), size, "crop", (0.5, 0.5)), np.float64)
    assert made.shape == (size[1], size[0])
    scale = max(size[0] / 120, size[1] / 90)
    visible = size[0] / (120 * scale)  # of the width
    middle_of_first = (1 - visible) / 2 + visible / size[0] / 2
    assert made[:, 0].mean() == pytest.approx(255 * middle_of_first, abs=5)  # half a pixel
    assert made[:, -1].mean() == pytest.approx(255 * (1 - middle_of_first), abs=5)  # half a pixel

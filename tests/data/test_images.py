from __future__ import annotations

import io

import numpy as np
import pytest
from data_helpers import folder_config, make_source
from PIL import Image

from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.data.images import (
    DataError,
    convert_channels,
    convert_precise_channels,
    decode_image,
    decode_precise,
    resize,
)
from mindone_ddpm.data.plan import Plan
from mindone_ddpm.jobs.unconditional.data import open_records


def png(image: Image.Image, format: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def test_deep_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    image = decode_image(png(Image.fromarray(values)), None, "x")
    np.testing.assert_array_equal(np.asarray(convert_channels(image, 1)), [[0, 100], [200, 255]])


def test_transparency_is_laid_over_white_and_kept_with_four_channels():
    image = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(convert_channels(image, 3))[0], [[255, 0, 0], [255, 255, 255]])
    np.testing.assert_array_equal(np.asarray(convert_channels(image, 4))[0, 1], [255, 0, 0, 0])


def test_palette_cmyk_and_animation():
    red = Image.new("RGB", (4, 4), (250, 10, 10))
    palette = decode_image(png(red.convert("P")), None, "x")
    assert np.abs(np.asarray(convert_channels(palette, 3))[0, 0].astype(int) - [250, 10, 10]).max() < 60
    cmyk = decode_image(png(red.convert("CMYK"), "jpeg"), None, "x")
    assert np.abs(np.asarray(convert_channels(cmyk, 3))[0, 0].astype(int) - [250, 10, 10]).max() < 20
    frames = png(red, "gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert np.asarray(convert_channels(decode_image(frames, None, "x"), 3))[0, 0, 0] > 200


def test_exif_orientation_is_obeyed():
    image = Image.fromarray(np.array([[0, 255]] * 8, dtype=np.uint8).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright = decode_image(png(image, "jpeg", exif=exif), None, "x")
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
    image = Image.fromarray(generator.integers(0, 256, (8, 8, 4), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    expected = np.atleast_3d(np.asarray(convert_channels(decode_image(None, str(path), "x"), channels)))
    found = convert_precise_channels(decode_precise(None, str(path), "x"), channels)
    np.testing.assert_allclose(found * 255, expected, atol=1.01)


def test_a_image_that_cannot_be_read_precisely_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable image"):
        decode_precise(None, str(tmp_path / "bad.png"), str(tmp_path / "bad.png"))


def test_interpolation_modes_differ_and_nearest_invents_no_colour():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 37), dtype=np.uint8))
    modes = ("nearest", "bilinear", "bicubic", "lanczos", "box")
    made = {mode: np.asarray(resize(image, 16, "squash", (0, 0), mode)) for mode in modes}
    assert len({pixels.tobytes() for pixels in made.values()}) == 5
    assert set(made["nearest"].ravel()) <= set(np.asarray(image).ravel())


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

"""Single images: decoding, conversion of channels, resizing. Errors of data."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mindone_ddpm.common.errors import UserError, first_line
from mindone_ddpm.common.files import check_regular, sha256_of
from mindone_ddpm.config.groups import MAX_IMAGE_PIXELS

CHANNEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

IMAGE_ENDINGS = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


# Not read: for EPS Pillow starts another program, for the others it has no decoder.
KINDS_NOT_READ = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF")
MODES_NOT_READ = ("LAB",)  # of which Pillow makes no RGB
MOST_BYTES_PER_PIXEL, MOST_OTHER_BYTES = 16, 64 << 20  # of a file

# :func:`decode_image` has a limit of pixels that names the image. Pillow's own is for images inside of images, such as
# those of an icon; as an error, not as a warning.
Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of parts of a file that it skips


class DataError(UserError):
    """The data cannot be used with these settings. The message is one line that names the file, column or flag."""


def _check_pixels(size: tuple[int, int], where: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise DataError(
            f"{where}: has {size[0]:,} x {size[1]:,} pixels, more than --max_image_pixels {max_pixels:,} in all"
        )


def stored_image(image: Any, index: int, column: str) -> tuple[bytes | None, str | None, str]:
    """Content, path and name of an image that a data set holds; see :func:`decode_image`. Raises DataError for none."""
    name = f"image {index} of the data set, column '{column}'"
    if image is None or (image.get("bytes") is None and image.get("path") is None):
        raise DataError(f"{name}: is missing")
    return image.get("bytes"), image.get("path"), image.get("path") or name


def decode_image(
    content: bytes | None, path: str | None, where: str, max_pixels: int = MAX_IMAGE_PIXELS
) -> Image.Image:
    """Decode an image: its first frame, oriented as its EXIF data says. :func:`convert_channels` takes it.

    Args:
        content: the file's bytes, or None to read ``path``.
        where: the name of the image in an error.
        max_pixels: one that has more is refused before it is decoded: a small file can hold a huge image.

    Raises:
        DataError: it cannot be decoded, or has numbers that are not finite.
    """
    with _told(where), open_image(content, path, max_pixels) as image:
        _check_pixels(image.size, where, max_pixels)
        image.seek(0)
        image.load()
        if image.mode in MODES_NOT_READ:
            raise DataError(f"{where}: has colours of the kind {image.mode}, which are not read; convert it to RGB")
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise DataError(f"{where}: holds numbers that are not finite")
        return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors of a decoder become a DataError: Pillow and OpenCV raise many kinds for a damaged file."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        count = re.search(r"\d+", str(error))
        said = f"{int(count[0]):,}" if count else "many"
        raise DataError(f"{where}: has {said} pixels, more than --max_image_pixels") from error
    except Exception as error:
        reason = re.sub(r"<_io\.BytesIO object at \w+>", "the file", first_line(error))
        raise DataError(f"{where}: not a readable image ({reason})") from error


def open_image(content: bytes | None, path: str | None, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """An image whose pixels are not decoded yet. Pillow raises many kinds of errors; see :func:`decode_image`."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    Image.init()
    kinds = [kind for kind in Image.ID if kind not in KINDS_NOT_READ]
    if content is not None:
        return Image.open(io.BytesIO(content), formats=kinds)
    _check_file(Path(str(path)), max_pixels)
    return Image.open(str(path), formats=kinds)


def _check_file(path: Path, max_pixels: int) -> None:
    """Raises ValueError for a device, a pipe, and a file larger than any image of so many pixels; OSError for none."""
    check_regular(path)
    num_bytes = path.stat().st_size
    if num_bytes > max_pixels * MOST_BYTES_PER_PIXEL + MOST_OTHER_BYTES:
        raise ValueError(f"{num_bytes:,} bytes are more than an image of --max_image_pixels can have")


def convert_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 8-bit grey (1 channel), RGB (3) or RGBA (4).

    Grey of more than 8 bits is scaled, not clipped. Without an alpha channel in the result, a transparent image is
    composed over white.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        top_of_floats = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
        top = top_of_floats if image.mode == "F" else 65535.0
        image = Image.fromarray((np.clip(values / top, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if transparent and channels != 4:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(CHANNEL_MODES[channels])


def decode_precise(
    content: bytes | None, path: str | None, where: str, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """Decode an image without rounding it to 8 bits: float32 in [0, 1], shape (height, width, 1, 2, 3 or 4).

    Pillow rounds 16-bit colours to 8 bits, so OpenCV decodes those of PNG, TIFF and PPM.

    Args and errors: see :func:`decode_image`.
    """
    image = decode_image(content, path, where, max_pixels)
    with _told(where):
        values = _deep_colours(content, path, max_pixels)
        if values is None:
            if image.mode in ("P", "PA", "1", "CMYK", "YCbCr", "HSV", "La", "RGBa", "RGBX") or (
                "transparency" in image.info
            ):
                has_alpha = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
                image = image.convert("RGBA" if has_alpha else "RGB")
            values = np.asarray(image)
    values = np.atleast_3d(values)
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    else:
        top = 255.0 if values.dtype == np.uint8 else 65535.0
    return np.clip(values.astype(np.float32) / np.float32(top), 0.0, 1.0)


def _deep_colours(content: bytes | None, path: str | None, max_pixels: int) -> np.ndarray | None:
    """The colours of an image of 16 bits, uint16 (height, width, 3 or 4); None for another image.

    Only what Pillow has decoded is given to OpenCV, which a damaged file can crash.
    """
    import cv2

    with open_image(content, path, max_pixels) as header:
        if not _is_deep(header):
            return None
    data = content if content is not None else Path(str(path)).read_bytes()
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in (3, 4):
        return None
    return values[..., [2, 1, 0, 3][: values.shape[2]]]  # from BGR


def _is_deep(header: Any) -> bool:
    """Whether an image that was opened has colours, or grey and alpha, of 16 bits each."""
    if header.mode not in ("RGB", "RGBA", "LA") or not header.tile:
        return False
    how = header.tile[0].args  # of the decoder
    if header.format == "PPM":
        return isinstance(how, tuple) and how[-1] > 255
    return header.format in ("PNG", "TIFF") and ";16" in str(how)


def convert_precise_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """:func:`convert_channels` for float32 of shape (height, width, channels), by the same formulas."""
    colours, alpha = (values[..., :-1], values[..., -1:]) if values.shape[2] in (2, 4) else (values, None)
    if channels == 4:
        alpha = np.ones_like(values[..., :1]) if alpha is None else alpha
        return np.concatenate([np.broadcast_to(colours, (*colours.shape[:2], 3)), alpha], axis=2)
    if alpha is not None:
        colours = colours * alpha + (1.0 - alpha)  # over white
    if channels == 1 and colours.shape[2] == 3:
        return (colours @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]  # ITU-R BT.601, as Pillow's L
    return np.broadcast_to(colours, (*colours.shape[:2], channels))


def resize(
    image: Image.Image,
    size: int | tuple[int, int],
    mode: str,
    crop_at: tuple[float, float],
    interpolation: str = "bilinear",
) -> Image.Image:
    """Resize an image; antialiased, except for ``nearest``.

    Args:
        size: width and height in pixels, or the side of a square.
        mode: ``squash`` ignores the aspect ratio; ``crop`` covers the size and crops what is beyond it.
        crop_at: with ``crop``, the place of the crop from left to right and from top to bottom, each from 0 to 1.
        interpolation: a key of ``RESAMPLING``.
    """
    resampling = RESAMPLING[interpolation]
    size = (size, size) if isinstance(size, int) else size
    if mode == "crop":
        covering = size_before_crop(image.size, size)
        left, top = crop_corner(covering, size, crop_at)
        return image.resize(covering, resampling).crop((left, top, left + size[0], top + size[1]))
    if image.size == size:
        return image
    return image.resize(size, resampling)


def size_before_crop(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image that was scaled until it just covers a size; all are (width, height)."""
    scale = max(size[0] / image_size[0], size[1] / image_size[1])
    return max(size[0], round(image_size[0] * scale)), max(size[1], round(image_size[1] * scale))


def crop_corner(covering: tuple[int, int], size: tuple[int, int], crop_at: tuple[float, float]) -> tuple[int, int]:
    """Left and top of the crop of an image of the first (width, height) to the second; see :func:`resize`."""
    return round(crop_at[0] * (covering[0] - size[0])), round(crop_at[1] * (covering[1] - size[1]))


def oriented_size(content: bytes | None, path: str | None) -> tuple[int, int]:
    """Width and height of an image as its EXIF data orients it, from its head alone; (0, 0) where it cannot be read."""
    try:
        with open_image(content, path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # by a quarter: the EXIF tag of the orientation
            return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow raises many kinds for a damaged file, which is told when it is decoded
        return 0, 0


def content_digest(image: dict[str, Any]) -> bytes:
    """SHA-256 of an image's file, given as a data set stores it: ``bytes``, or the ``path`` of the file.

    Raises DataError: there is no such file.
    """
    content, path = image.get("bytes"), image.get("path")
    if content is None and path:
        with _told(str(path)):
            _check_file(Path(path), MAX_IMAGE_PIXELS)
            return bytes.fromhex(sha256_of(Path(path)))
    return hashlib.sha256(content or b"").digest()

"""Images in, batches out.

An :class:`ImageRecords` is a Hugging Face data set seen as pictures of one size; :func:`make_loader` feeds it to
MindSpore through a ``GeneratorDataset`` whose items are whole batches. What a batch holds is a function of the seed
and of its number alone: the order of an epoch, the flips, the noise and the timesteps come from counter-based
generators keyed by the position of a sample in the run, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mindone_ddpm.common.errors import UserError, first_line

CHANNEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


IMAGE_ENDINGS = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class DataError(UserError):
    """The data cannot be used as asked; the message is one line that names the file, the column or the flag."""


def decode_image(content: bytes | None, path: str | None, where: str) -> Image.Image:
    """Decode one picture: the first frame, turned upright as its EXIF data says.

    Args:
        content: the file's bytes, or None to read ``path``.
        where: what to call the picture in an error.

    Raises:
        DataError: it cannot be read as a picture.
    """
    try:
        with Image.open(io.BytesIO(content) if content is not None else str(path)) as picture:
            picture.seek(0)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        reason = first_line(error)
        reason = re.sub(r"<_io\.BytesIO object at \w+>", "the file", reason)
        raise DataError(f"{where}: not a readable image ({reason})") from error


def convert_channels(picture: Image.Image, channels: int) -> Image.Image:
    """To 8-bit grey, RGB or RGBA. Deeper greys are scaled, not clipped; transparency is laid over white."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        top_of_floats = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
        top = top_of_floats if picture.mode == "F" else 65535.0
        picture = Image.fromarray((np.clip(values / top, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    transparent = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    if transparent and channels != 4:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert(CHANNEL_MODES[channels])


def decode_precise(content: bytes | None, path: str | None, where: str) -> np.ndarray:
    """Decode one picture at the precision it has: float32 in [0, 1], shape (height, width, 1, 2, 3 or 4).

    Pillow rounds 16-bit colours to 8 bits, so OpenCV reads what is deeper than that.

    Raises:
        DataError: it cannot be read as a picture.
    """
    import cv2

    data = content if content is not None else Path(str(path)).read_bytes()
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if values is None or values.dtype == np.uint8:
        picture = decode_image(content, path, where)
        if picture.mode in ("P", "PA", "1", "CMYK", "YCbCr", "LAB", "HSV") or "transparency" in picture.info:
            picture = picture.convert("RGBA" if "transparency" in picture.info or picture.mode == "PA" else "RGB")
        values = np.asarray(picture)
    else:
        values = values[..., None] if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]  # from BGR
    values = np.atleast_3d(values)
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    else:
        top = 255.0 if values.dtype == np.uint8 else 65535.0
    return np.clip(values.astype(np.float32) / np.float32(top), 0.0, 1.0)


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
    picture: Image.Image, size: int, mode: str, crop_at: tuple[float, float], interpolation: str = "bilinear"
) -> Image.Image:
    """To ``size`` x ``size`` pixels, antialiased.

    Args:
        mode: ``squash`` ignores the proportions; ``crop`` scales the shorter side and cuts the longer one.
        crop_at: with ``crop``, how far from the left and from the top to cut, each from 0 to 1.
    """
    resampling = RESAMPLING[interpolation]
    if mode == "crop":
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = round(crop_at[0] * (width - size)), round(crop_at[1] * (height - size))
        return picture.resize((width, height), resampling).crop((left, top, left + size, top + size))
    if picture.size == (size, size):
        return picture
    return picture.resize((size, size), resampling)


def content_digest(image: dict[str, Any]) -> bytes:
    content = image.get("bytes")
    if content is None and image.get("path"):
        content = Path(image["path"]).read_bytes()
    return hashlib.sha256(content or b"").digest()

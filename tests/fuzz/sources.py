"""Whole files to begin with: images of every kind that Pillow writes, and some that it only reads."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
SIDE = 12


@functools.cache
def images() -> dict[str, bytes]:
    """Small images by name."""
    Image.init()
    found: dict[str, bytes] = {}
    for mode in MODES:
        for kind in sorted(Image.SAVE):
            if kind == "PDF":
                continue
            for name, options in (("", {}), *MORE_OPTIONS.get(kind, ())):
                buffer = io.BytesIO()
                try:
                    _picture(mode).save(buffer, format=kind, **options)
                except Exception:  # a kind that has not this mode
                    continue
                found[f"{kind}{name} {mode}"] = buffer.getvalue()
    return {**found, **_animations(), **_handmade()}


# EXIF data that say that the image lies on its side.
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
MORE_OPTIONS: dict[str, tuple] = {
    "TIFF": tuple(
        (f" {name}", {"compression": name})
        for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4", "zstd", "tiff_ccitt", "lzma", "webp")
    ),
    "JPEG": ((" progressive", {"progressive": True}), (" exif", {"exif": TURNED})),
    "PNG": ((" transparent", {"transparency": 0}), (" icc", {"icc_profile": b"x" * 200})),
    "WEBP": ((" lossless", {"lossless": True}),),
    "DDS": tuple((f" {name}", {"pixel_format": name}) for name in ("DXT1", "DXT3", "DXT5", "BC2", "BC3", "BC5")),
    "JPEG2000": ((" raw", {"no_jp2": True}),),
    "BLP": ((" 1", {"blp_version": "BLP1"}),),
    "TGA": ((" rle", {"compression": "tga_rle"}),),
    "PPM": (),
}


def _picture(mode: str) -> Image.Image:
    ramp = np.linspace(0, 255, SIDE * SIDE * 3).reshape(SIDE, SIDE, 3).astype(np.uint8)
    picture = Image.fromarray(ramp)
    if mode == "I;16B":
        return Image.frombytes("I;16B", (SIDE, SIDE), bytes(2 * SIDE * SIDE))
    if mode == "F":
        return Image.fromarray(ramp[:, :, 0].astype(np.float32) / 255)
    if mode in ("I", "I;16"):
        return picture.convert("L").convert("I").convert(mode) if mode == "I;16" else picture.convert("L").convert("I")
    if mode in ("LA", "PA"):
        return picture.convert("RGBA").convert("LA") if mode == "LA" else picture.convert("P").convert("PA")
    if mode == "LAB":
        return Image.frombytes("LAB", (SIDE, SIDE), ramp.tobytes())
    return picture.convert(mode)


def _animations() -> dict[str, bytes]:
    frames = [_picture("RGB").rotate(angle) for angle in (0, 90, 180)]
    found = {}
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format=kind, save_all=True, append_images=frames[1:])
        found[f"{kind} of three"] = buffer.getvalue()
    return found


def png_that_says(width: int, height: int, depth: int = 8, colours: int = 0) -> bytes:
    """A small file whose head speaks of an image of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def icon_with(content: bytes) -> bytes:
    """A Windows icon whose only image is a file of another kind, whatever the icon says of its size."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22) + content


def mac_icon_with(content: bytes) -> bytes:
    """The same of the Macintosh."""
    return b"icns" + struct.pack(">I", 16 + len(content)) + b"ic07" + struct.pack(">I", 8 + len(content)) + content


def _handmade() -> dict[str, bytes]:
    """Kinds that Pillow reads and does not write; and files that say more than they hold."""
    pixels = bytes(range(SIDE * SIDE))
    sun = struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 8, len(pixels), 1, 0, 0) + pixels
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, SIDE, SIDE, 8, 1) + bytes(12) + b"\0\0" + pixels
    fits = b"".join(
        line.ljust(80)
        for line in (
            *(b"SIMPLE  =                    T", b"BITPIX  =                    8", b"NAXIS   =                    2"),
            *(b"NAXIS1  =                   12", b"NAXIS2  =                   12", b"END"),
        )
    ).ljust(2880) + pixels.ljust(2880)
    fli = struct.pack("<IHHHHHHI", 128 + 16, 0xAF11, 1, SIDE, SIDE, 8, 3, 1).ljust(128, b"\0") + bytes(16)
    gbr = struct.pack(">5I", 21, 1, SIDE, SIDE, 1) + b"\0" + pixels
    dcx = struct.pack("<3I", 0x3ADE68B1, 12, 0) + images_of_kind("PCX")
    pixar = b"\x80\xe8\0\0".ljust(416, b"\0") + struct.pack("<2H", SIDE, SIDE) + bytes(4) + struct.pack("<2H", 14, 2)
    hdr = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 12 +X 12\n" + bytes(4 * SIDE * SIDE)
    bomb = png_that_says(60_000, 60_000)
    return {
        **{"SUN": sun, "PSD": psd, "FITS": fits, "FLI": fli, "GBR": gbr, "DCX": dcx, "HDR": hdr},
        **{"PIXAR": pixar.ljust(1024, b"\0") + pixels * 3, "XPM": XPM, "IPTC": b"\x1c\x03\x14\0\x01\x01" * 4},
        **{"FTEX": b"FTEX" + struct.pack("<6i", 1, SIDE, SIDE, 1, 1, 0) + struct.pack("<2i", 32, 16) + pixels},
        **{"XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n12 12 255\n" + pixels, "MPEG": b"\0\0\x01\xb3\0\xc0\x0c" + pixels},
        **{"CUR": b"\0\0\2\0" + icon_with(images_of_kind("DIB"))[4:], "PCD": b"PCD_" * 700 + pixels * 20},
        **{"PNG bomb": bomb, "PNG bomb of 16 bits": png_that_says(60_000, 60_000, 16, 2), "ICO bomb": icon_with(bomb)},
        **{"ICNS bomb": mac_icon_with(bomb), "PPM bomb": b"P6 60000 60000 255\n", "PFM bomb": b"PF\n60000 60000\n-1\n"},
        **{"HDR bomb": hdr.replace(b"12", b"60000"), "PAM bomb": PAM_BOMB, "text": b"no image", "nothing": b""},
        **{"EPS that is a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"},
    }


def images_of_kind(kind: str) -> bytes:
    buffer = io.BytesIO()
    _picture("RGB").save(buffer, format=kind)
    return buffer.getvalue()


XPM = b'/* XPM */\nstatic char *x[] = {\n"2 2 2 1",\n"a c #000000",\n"b c #ffffff",\n"ab",\n"ba"\n};\n'
PAM_BOMB = b"P7\nWIDTH 60000\nHEIGHT 60000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n"

"""Bytes of any common image file to 8-bit RGB, or a ValueError that says why not."""

import io
import re

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 80_000_000
"""Largest image decoded. A kilobyte of PNG can claim gigapixels."""

MAX_DEEP_PIXELS = 50_000_000
"""Largest image with more than three channels or 8 bits: Pillow holds 4 bytes a pixel, and 4 more as RGB: 400 MB."""

MAX_SCANS = 100
"""Most scans of a JPEG; encoders write about ten. Each costs a pass over the image, whatever its size in the file."""

MAX_SCAN_PIXELS = 16 * MAX_PIXELS
"""Most scans times pixels."""

MAX_SEGMENTS = 10_000
"""Most segments of a JPEG, each up to 64 KB."""

_STRIP = 1 << 20  # pixels converted at once
_SEGMENT = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # the start of one; data hold a byte FF before 00, D0-D7 alone
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01

# A closed list: Pillow would otherwise try every plugin on untrusted bytes, one of which starts Ghostscript.
# MPO is the JPEG of phones with further pictures behind the first.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}


def decode(data: bytes) -> Image.Image:
    """Decode an image file to mode RGB, upright as its EXIF says, transparent parts on white.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; of an animation the first frame is taken.

    Raises:
        ValueError: Not an image, damaged, truncated, beyond one of the bounds above, or of floating-point pixels.
    """
    image = _open(data)
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    # Pillow's decoders meet damaged bytes with a dozen kinds of exception (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(f"damaged image: {error}") from error


def extension(data: bytes) -> str:
    """The file name extension (without dot) of an image's format, told by its first bytes. Raises ValueError."""
    return _EXTENSIONS[str(_open(data).format)]


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[name for name in _EXTENSIONS if name != "MPO"])
    except Image.DecompressionBombError as error:
        raise ValueError(f"image too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not an image" if data else "empty file") from error
    except Exception as error:
        raise ValueError(f"damaged image: {error}") from error
    pixels, most = image.width * image.height, MAX_PIXELS if _is_shallow(image) else MAX_DEEP_PIXELS
    if pixels > most:
        raise ValueError(f"image too large: {image.width} x {image.height} pixels, {image.mode} at most {most:,}")
    if image.format == "JPEG" and (scans := _scans(data)) * pixels > MAX_SCAN_PIXELS:
        raise ValueError(f"image too slow to decode: {scans} scans of {pixels:,} pixels")
    return image


def _is_shallow(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "P", "RGB", "YCbCr") and "transparency" not in image.info


def _scans(data: bytes) -> int:
    """Scans of a JPEG. Raises ValueError where there are more scans or segments than bounds allow."""
    position = scans = segments = 0
    while found := _SEGMENT.search(data, position):
        kind, position = found[1][0], found.end()
        if kind == _EOI:
            break
        if kind not in (_SOI, _TEM):
            position += int.from_bytes(data[position : position + 2], "big")
        scans, segments = scans + (kind == _SOS), segments + 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise ValueError(f"image too slow to decode: more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments")
    return scans


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if _is_shallow(image):
        return image.convert("RGB")
    # In strips, so that what lies between the two takes no memory.
    whole, rows = Image.new("RGB", image.size), max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        whole.paste(_rgb_strip(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return whole


def _rgb_strip(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # convert("RGB") would clip at 255. 16-bit grey: 65535 / 257 = 255 exactly.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

"""Decodes common image formats to 8-bit RGB, or raises a ValueError with the reason."""

import io
import re

from PIL import Image

from dist_plm.data.formats import HEAD, JPEG, PNG, Format, refusal, sniff
from dist_plm.data.png import set_transparent, without_comments
from dist_plm.data.rgb import is_shallow, to_rgb

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

_SEGMENT = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # a marker; data have FF only before 00 or D0-D7
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01


class TooLittleMemory(ValueError):
    """An image that may be intact, but is larger in memory than what is left."""


def decode(data: bytes) -> Image.Image:
    """Decode an image file to mode RGB, upright as its EXIF says, transparent parts on white.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; of an animation the first frame is taken.

    Raises:
        TooLittleMemory: Less is left than the image takes.
        ValueError: Not an image, damaged, truncated, beyond one of the bounds above, or of floating-point pixels.
    """
    form = _format(data)
    try:
        return _decoded(data, form)
    except ValueError:
        # Pillow rejects a PNG with an oversized comment or one with a wrong checksum.
        plain = without_comments(data) if form == PNG else data
        if len(plain) == len(data):
            raise
        return _decoded(plain, form)


def extension(data: bytes) -> str:
    """The file name extension (without dot) of an image's format, detected by magic number. Raises ValueError."""
    return _format(data).extension


def _format(data: bytes) -> Format:
    if reason := refusal(data[:HEAD]):
        raise ValueError(reason)
    form = sniff(data[:HEAD])
    assert form is not None
    return form


def _decoded(data: bytes, form: Format) -> Image.Image:
    image = _open(data, form)
    try:
        if form == PNG:
            set_transparent(image, data)
        image.load()
        return to_rgb(image)
    except MemoryError as error:
        raise TooLittleMemory(f"too little memory to decode {image.width} x {image.height} pixels") from error
    # Pillow's decoders raise a dozen kinds of exception for damaged bytes (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(f"damaged image: {error}") from error


def _open(data: bytes, form: Format) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[form.plugin])
    except Image.DecompressionBombError as error:
        raise ValueError(f"image too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"damaged image: it starts like {form.plugin} but can't be read as {form.plugin}") from error
    except Exception as error:
        raise ValueError(f"damaged image: {error}") from error
    pixels, most = image.width * image.height, MAX_PIXELS if is_shallow(image) else MAX_DEEP_PIXELS
    if pixels > most:
        raise ValueError(f"image too large: {image.width} x {image.height} pixels, {image.mode} at most {most:,}")
    if form == JPEG and (scans := _scans(data)) * pixels > MAX_SCAN_PIXELS:
        raise ValueError(f"image too slow to decode: {scans} scans of {pixels:,} pixels")
    return image


def _scans(data: bytes) -> int:
    """Scans of a JPEG. Raises ValueError where there are more scans or segments than bounds allow."""
    position = scans = segments = 0
    while match := _SEGMENT.search(data, position):
        kind, position = match[1][0], match.end()
        if kind == _EOI:
            break
        if kind not in (_SOI, _TEM):
            position += int.from_bytes(data[position : position + 2], "big")
        scans, segments = scans + (kind == _SOS), segments + 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise ValueError(f"image too slow to decode: more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments")
    return scans

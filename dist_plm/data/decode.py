"""Bytes of any common image file to 8-bit RGB, or a ValueError that says why not."""

import io

from PIL import Image

from dist_plm.data.formats import HEAD, PNG, Format, refusal, sniff
from dist_plm.data.png import set_transparent, without_comments
from dist_plm.data.rgb import to_rgb

MAX_PIXELS = 80_000_000
"""Largest image decoded: 240 MB as RGB. A kilobyte of PNG can claim gigapixels."""


def decode(data: bytes) -> Image.Image:
    """Decode an image file to mode RGB, upright as its EXIF says, transparent parts on white.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; of an animation the first frame is taken.

    Raises:
        ValueError: Not an image, damaged, truncated, larger than MAX_PIXELS, or of floating-point pixels.
    """
    form = _format(data)
    try:
        return _decoded(data, form)
    except ValueError:
        # Pillow refuses a PNG for a comment that is too long or has a wrong checksum.
        plain = without_comments(data) if form == PNG else data
        if len(plain) == len(data):
            raise
        return _decoded(plain, form)


def extension(data: bytes) -> str:
    """The file name extension (without dot) of an image's format, told by its first bytes. Raises ValueError."""
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
    # Pillow's decoders meet damaged bytes with a dozen kinds of exception (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(f"damaged image: {error}") from error


def _open(data: bytes, form: Format) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[form.plugin])
    except Image.DecompressionBombError as error:
        raise ValueError(f"image too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"damaged image: it begins as {form.plugin} and can't be read as such") from error
    except Exception as error:
        raise ValueError(f"damaged image: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"image too large: {image.width} x {image.height} pixels, at most {MAX_PIXELS:,}")
    return image

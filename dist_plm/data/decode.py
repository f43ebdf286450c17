"""Bytes of any common image file to 8-bit RGB, or a ValueError that says why not."""

import io

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 80_000_000
"""Largest image decoded: 240 MB as RGB. A kilobyte of PNG can claim gigapixels."""

# A closed list: Pillow would otherwise try every plugin on untrusted bytes, one of which starts Ghostscript.
# MPO is the JPEG of phones with further pictures behind the first.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}


def decode(data: bytes) -> Image.Image:
    """Decode an image file to mode RGB, upright as its EXIF says, transparent parts on white.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; of an animation the first frame is taken.

    Raises:
        ValueError: Not an image, damaged, truncated, larger than MAX_PIXELS, or of floating-point pixels.
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
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"image too large: {image.width} x {image.height} pixels, at most {MAX_PIXELS:,}")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        # convert("RGB") would clip at 255. 16-bit grey: 65535 / 257 = 255 exactly.
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

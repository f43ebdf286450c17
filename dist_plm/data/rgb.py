"""Converts pixels of any mode to upright 8-bit RGB, transparent parts on white."""

from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

STRIP = 1 << 20  # pixels converted at once
ORIENTATION = 0x0112  # EXIF tag
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
SIGNED = 2  # of SAMPLE_FORMAT
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """An image that was loaded, as upright RGB; it may be the same object, which is never changed.

    Raises:
        ValueError: Floating-point pixels, whose range is not defined.
    """
    rgb = _in_strips(image)
    method = _UPRIGHT.get(_orientation(image))
    return rgb if method is None else rgb.transpose(method)


def is_shallow(image: Image.Image) -> bool:
    """Whether an image has at most three channels of 8 bits, and no transparency."""
    return image.mode in ("1", "L", "P", "RGB", "YCbCr") and "transparency" not in image.info


def from_array(pixels: np.ndarray) -> Image.Image:
    """RGB from uint8 or uint16 [h, w] or [h, w, c], c = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).

    Raises:
        ValueError: Another dtype or shape.
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= 4):
        raise ValueError(f"an array of shape {list(pixels.shape)}: an image is [height, width] or [height, width, 1-4]")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an array of {pixels.dtype}: give uint8 in 0-255, or uint16 in 0-65535")
    if not pixels.size:
        raise ValueError(f"an array of shape {list(pixels.shape)} has no pixels")
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return _rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def _orientation(image: Image.Image) -> int:
    """Orientation by EXIF or XMP, 1 to 8; 1 if it is missing or can't be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    # Damaged EXIF raises many kinds of exception; the pixels are intact, and viewers show them unrotated.
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _in_strips(image: Image.Image) -> Image.Image:
    """RGB, converted a few rows at a time if the conversion needs intermediate images."""
    tags = getattr(image, "tag_v2", {})
    white = _white(image, tags) if image.mode.startswith("I") else 255
    rows = max(1, STRIP // max(1, image.width))
    if is_shallow(image) or image.height <= rows:
        return _rgb(image, tags, white)
    whole, opaque = Image.new("RGB", image.size), image.info.get("opaque")
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        if opaque is not None:
            strip.info["opaque"] = opaque[top:bottom]
        whole.paste(_rgb(strip, tags, white), (0, top))
    return whole


def _rgb(image: Image.Image, tags: Any = MappingProxyType({}), white: int = 255) -> Image.Image:
    """RGB; `tags` are those of a TIFF, `white` is the largest value of grey of more than 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        return _deep_grey(image, tags, white)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "RGB":
        image = _with_byte_key(image)
    layers = image.convert("RGBA")
    if "opaque" in image.info:
        layers.putalpha(
            Image.fromarray(np.asarray(layers)[..., 3] | np.where(image.info["opaque"], 255, 0).astype("u1"))
        )
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layers).convert("RGB")


def _with_byte_key(image: Image.Image) -> Image.Image:
    """With the transparent colour in bytes: that of a 16-bit PNG which somebody else opened is in 16 bits."""
    colour: Any = image.info["transparency"]
    if isinstance(colour, tuple) and max(colour) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return image


def _white(image: Image.Image, tags: Any) -> int:
    """The value of white in grey of more than 8 bits: 32 bits often hold 16, and else use their whole range."""
    bits, form = (_first(tags.get(tag, default)) for tag, default in ((BITS_PER_SAMPLE, 16), (SAMPLE_FORMAT, 1)))
    if image.mode == "I":
        low, high = (int(value) for value in image.getextrema())  # type: ignore[arg-type]
        if bits == 32 and form != SIGNED and low < 0:  # Pillow holds them as signed
            return 2**32 - 1
        if high > 65535:
            return 2**32 - 1 if bits == 32 and form != SIGNED else 2**31 - 1
    return (1 << bits) - 1 if 8 < bits < 16 else 65535  # 65535 / 257 = 255 exactly


def _first(value: Any) -> int:
    number: int = value[0] if isinstance(value, tuple) else value
    return number


def _deep_grey(image: Image.Image, tags: Any, white: int) -> Image.Image:
    """Grey of more than 8 bits. convert("RGB") would clip at 255."""
    values = np.asarray(image)
    values = (values.view(np.uint32) if white >= 2**32 - 1 else values).astype(np.int64).clip(0, white)
    grey = values * 255 // white
    if tags.get(PHOTOMETRIC) == 0:  # white is zero; Pillow turns it over in 8 bits and less
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

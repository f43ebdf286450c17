"""Thumbnails as data URIs."""

import base64
import io

import numpy as np
from PIL import Image, ImageOps

QUALITY = 70  # WebP; about 1.2 kB for a photograph of 96 px


def thumbnail(image: Image.Image, side: int) -> str:
    """The central square of an image, `side` pixels wide, as a data URI."""
    return _uri(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR))


def view_thumbnail(view: np.ndarray, side: int) -> str:
    """The same of a view, uint8 [3, s, s]."""
    return thumbnail(Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0))), side)


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

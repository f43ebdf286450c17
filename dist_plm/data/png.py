"""Workarounds for Pillow's PNG reader: damaged or oversized comments, and the scale of a transparent colour.

PNG is a signature of 8 bytes and chunks: length (4 bytes), type (4), data, CRC-32 of type and data (4). A type that
begins with a lowercase letter is ancillary: a reader may ignore it (PNG specification, 3rd edition, sections 5.3, 5.4).
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
# Ancillary chunks that decide how the image looks here: transparency, and the two that hold its orientation.
KEPT = {b"tRNS", b"eXIf"}
XMP, XMP_BYTES = b"XML:com.adobe.xmp\0", 1 << 20


def without_comments(data: bytes) -> bytes:
    """The file without ancillary chunks that don't affect the pixels; unchanged if it has none or is not a PNG."""
    kept, at = [data[:8]], 8
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", data[at : at + 8]) if at + 8 <= len(data) else (0, b"")
        end = at + 12 + length
        if not kind or end > len(data):
            break
        shows = kind[:1].isupper() or kind == b"tRNS"
        if shows or (_is_orientation(kind, data[at + 8 : end - 4]) and _is_sound(data[at + 4 : end])):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _is_orientation(kind: bytes, content: bytes) -> bool:
    return kind == b"eXIf" or (kind == b"iTXt" and content.startswith(XMP) and len(content) <= XMP_BYTES)


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")


def set_transparent(image: Image.Image, data: bytes) -> None:
    """Put the transparent colour of a PNG that was opened from `data`, not yet loaded, on the scale of its pixels.

    The file names it in the bits of a sample (1 to 16, from 0 to 2^bits - 1), Pillow's pixels have 8 of them, or 16 in
    grey. Of 16-bit RGB, Pillow keeps the upper bytes: the pixels whose lower bytes differ must not become transparent,
    and `info["opaque"]`, bool [h, w], says which those are.
    """
    colour = image.info.get("transparency")
    if colour is None or image.mode not in ("L", "RGB"):
        return
    bits = data[24]  # IHDR is the first chunk: width and height (4 bytes each), then the bits of a sample
    values = [value & (1 << bits) - 1 for value in (colour if isinstance(colour, tuple) else (colour,))]
    if bits == 16:
        lower = _lower_bytes(data)
        if lower is not None:
            image.info["opaque"] = (lower != [value & 255 for value in values]).any(-1)
        values = [value >> 8 for value in values]
    elif bits < 8:
        values = [value * 255 // ((1 << bits) - 1) for value in values]
    image.info["transparency"] = tuple(values) if image.mode == "RGB" else values[0]


def _lower_bytes(data: bytes) -> np.ndarray | None:
    """uint8 [h, w, 3], the lower bytes of a 16-bit RGB image, read as the upper ones after swapping the byte order."""
    image: Any = Image.open(io.BytesIO(data), formats=["PNG"])
    if [tile.args for tile in image.tile] != ["RGB;16B"]:
        return None
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    return np.asarray(image)

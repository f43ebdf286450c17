"""Converts a path, bytes, open file, PIL image or array to the same RGB pixels."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from dist_plm.data.decode import decode
from dist_plm.data.format import MAX_BYTES
from dist_plm.data.formats import HEAD, refusal
from dist_plm.data.rgb import from_array, to_rgb

Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray


def open_picture(picture: Picture) -> Image.Image:
    """RGB, upright, transparent parts on white: the same pixels for every kind of input.

    Arrays are uint8 or uint16, [height, width] or [height, width, 1-4 channels]. A PIL image that was already loaded
    has what Pillow kept of its file: of a transparent colour the upper bytes in 16-bit RGB, nothing in 2 or 4 bits.

    Raises:
        ValueError: Not an image, damaged, or without pixels.
        OSError: The path can't be read.
        TypeError: None of these kinds.
    """
    if isinstance(picture, Image.Image):
        return _of_pillow(picture)
    if isinstance(picture, np.ndarray):
        return from_array(picture)
    if isinstance(picture, str | os.PathLike):
        return decode(read_file(Path(picture)))
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture))
    read = getattr(picture, "read", None)
    if callable(read) and isinstance(data := read(), bytes):
        return decode(data)
    if read:
        raise TypeError("a file opened as text: open it with mode 'rb'")
    raise TypeError(f"{type(picture).__name__} is not an image: pass a path, bytes, a PIL image or a uint8 array")


def read_file(path: Path, offset: int = 0, size: int | None = None, refused: Callable[[bytes], str] = refusal) -> bytes:
    """The bytes of an image file, or of a byte range that holds one. Other files are not read beyond their first bytes.

    Args:
        refused: Returns from the first bytes why the file is refused; empty if it is accepted.

    Raises:
        OSError: Missing, unreadable, or not a regular file.
        ValueError: Refused, larger than MAX_BYTES, or shorter than `size`.
    """
    # Without O_NONBLOCK, opening a pipe blocks until there is a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        size = status.st_size if size is None else size
        file.seek(offset)
        head = file.read(min(HEAD, size))
        if reason := refused(head):
            raise ValueError(reason)
        if size > MAX_BYTES:
            raise ValueError(f"{size:,} bytes, at most {MAX_BYTES:,}")
        data = head + file.read(size - len(head))
    if len(data) != size:
        raise ValueError(f"only {len(data):,} of {size:,} bytes could be read")
    return data


def _of_pillow(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"{image.width} x {image.height} pixels: it is empty")
    if (data := _undecoded(image)) is not None:
        return decode(data)
    try:
        image.load()
        return to_rgb(image)
    except Exception as error:  # Pillow raises a dozen kinds of exception for damaged bytes
        raise ValueError(f"damaged image: {error}") from error


def _undecoded(image: Image.Image) -> bytes | None:
    """The file behind an image that Pillow has opened but not loaded, if `decode` supports its format."""
    file: Any = getattr(image, "fp", None)
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or not file or image.tell():
        return None
    at = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(at)
    return None if refusal(data[:HEAD]) else data

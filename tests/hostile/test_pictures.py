"""Images that cost more than they show: bounded in time and memory, or refused before they are decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dist_plm.data import decode as decoding
from dist_plm.data import rgb
from dist_plm.data.decode import MAX_DEEP_PIXELS, MAX_SCANS, decode
from tests.hostile.limits import limited


def jpeg(side: int, scans: int = 0) -> bytes:
    """A progressive JPEG whose last scan comes `scans` times more."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 99).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    first, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    return data[:end] + data[first:end] * scans + data[end:]


def png(width: int, height: int, colour: int, bits: int) -> bytes:
    """A PNG of zeros, written row by row: it takes no memory here."""
    row = bytes(1 + -(-width * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * bits // 8))
    deflate, parts = zlib.compressobj(1), []
    parts += [deflate.compress(row) for _ in range(height)]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
        (b"IDAT", b"".join(parts) + deflate.flush()),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize(("side", "scans"), [(64, 2_000), (64, MAX_SCANS), (8_000, 30)])
def test_scans_are_counted_before_they_are_decoded(side, scans):
    found = limited(decode, jpeg(side, scans), seconds=2, megabytes=200)
    assert found.error.startswith("ValueError: image too slow to decode"), found


def test_scans_of_a_jpeg_with_further_pictures_behind_it_are_counted():
    """Pillow calls it MPO, by a segment that costs a hundred bytes."""
    buffer = io.BytesIO()
    small = Image.new("L", (8, 8))
    small.save(buffer, "MPO", save_all=True, append_images=[small])
    phone, data = buffer.getvalue(), jpeg(64, 2_000)
    at = phone.find(b"MPF\0") - 4
    segment = phone[at : at + 2 + int.from_bytes(phone[at + 2 : at + 4], "big")]
    data = data[:2] + segment + data[2:]
    assert Image.open(io.BytesIO(data), formats=["JPEG"]).format == "MPO"
    with pytest.raises(ValueError, match="image too slow to decode"):
        decode(data)


def test_a_jpeg_of_as_many_scans_as_encoders_write_is_decoded():
    assert decode(jpeg(64, 40)).size == (64, 64)
    comments = b"\xff\xfe\x00\x02" * 2_000_000
    data = jpeg(64)
    found = limited(decode, data[:2] + comments + data[2:], seconds=5, megabytes=200)
    assert found.error.startswith("ValueError: image too slow"), found


def test_scans_are_those_of_the_image_not_of_its_thumbnail():
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 300) + (b"\xff\xda\x00\x02" * 75)
    data = jpeg(64)
    assert decoding._scans(data[:2] + exif + data[2:]) == decoding._scans(data) == 6


# Bits and colour types of PNG: grey, RGB, grey + alpha, RGBA.
@pytest.mark.parametrize(("colour", "bits"), [(0, 16), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)])
def test_deep_images_take_no_more_memory_than_promised(colour, bits):
    side = int(MAX_DEEP_PIXELS**0.5)
    if bits == 16 and colour != 0:
        side //= 4  # the same code, a sixteenth of the time
    found = limited(_size, png(side, side, colour, bits), seconds=60, megabytes=480)
    assert not found.error and found.value == (side, side), found
    wider = limited(_size, png(8_000, 8_000, colour, bits), seconds=20, megabytes=200)
    if colour != 2:
        assert wider.error.startswith("ValueError: image too large"), wider


def _size(data: bytes) -> tuple[int, int]:
    return decode(data).size


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "I;16", "PA"])
def test_strips_are_the_whole(monkeypatch, mode):
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 256 + values[..., 1])
    elif mode in ("P", "PA"):
        image = Image.fromarray(values[..., 0]).convert("P")
        image.info["transparency"] = 7
    else:
        image = Image.fromarray(values, "RGBA").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"transparency": 7} if mode in ("P", "PA") else {}))
    whole = np.asarray(decode(buffer.getvalue()))
    monkeypatch.setattr(rgb, "STRIP", 7 * 30)
    assert np.array_equal(np.asarray(decode(buffer.getvalue())), whole)


def test_a_gif_of_many_frames_costs_its_first():
    frame = Image.new("P", (16, 16), 3)
    buffer = io.BytesIO()
    frame.save(buffer, "GIF", save_all=True, append_images=[Image.new("P", (16, 16), 9)])
    data = buffer.getvalue()
    second = data.rfind(b"\x21\xf9\x04")
    found = limited(_size, data[:-1] + data[second:-1] * 100_000 + b";", seconds=3, megabytes=200)
    assert not found.error and found.value == (16, 16), found

"""Every kind of image file becomes upright 8-bit RGB; every other file a ValueError with its reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dist_plm.data import decode as module
from dist_plm.data.decode import decode, extension


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photograph(width: int = 48, height: int = 32) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def png16(values: np.ndarray) -> bytes:
    """A 16-bit grey PNG, by the specification: big-endian samples, filter 0 before each row."""
    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("form", "suffix"),
    [("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")],
)
def test_formats(form, suffix):
    data = encoded(photograph(), form)
    image = decode(data)
    assert (image.mode, image.size, extension(data)) == ("RGB", (48, 32), suffix)
    tolerance = 0 if form in ("PNG", "BMP", "TIFF") else 40
    assert np.abs(np.asarray(image).astype(int) - np.asarray(photograph())).mean() <= tolerance


def test_grey_has_three_equal_channels():
    grey = photograph().convert("L")
    pixels = np.asarray(decode(encoded(grey, "PNG")))
    assert (pixels == np.asarray(grey)[..., None]).all()


def test_one_pixel():
    assert decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).getpixel((0, 0)) == (1, 2, 3)


def test_cmyk_jpeg_shows_its_colour():
    # No cyan, full magenta and yellow, no black: red.
    red = np.asarray(decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")))
    assert red[..., 0].min() > 240 and red[..., 1:].max() < 15


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    data = encoded(photograph(), "JPEG", exif=exif, quality=95)
    image = decode(data)
    assert image.size == (32, 48)
    expected = np.rot90(np.asarray(decode(encoded(photograph(), "JPEG", quality=95))), -1)
    assert (np.asarray(image) == expected).all()


def test_16_bit_grey_keeps_its_range():
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert np.asarray(decode(png16(values)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_palette_with_alpha_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=b"\x00\xff")))
    assert pixels[0].tolist() == [[255, 255, 255], [0, 0, 200]]


def test_half_transparent_is_mixed_with_white():
    pixels = np.asarray(decode(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG")))
    assert pixels[0, 0].tolist() == [204, 204, 204]


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_no_image(data):
    with pytest.raises(ValueError, match=r"not an image|empty|damaged"):
        decode(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_truncated(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, form)
    with pytest.raises(ValueError, match="damaged image"):
        decode(data[: len(data) // 2])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_from_the_header():
    huge = bytearray(png16(np.zeros((1, 1), np.uint16)))
    for side in (10_000, 60_000):
        huge[16:24] = struct.pack(">II", side, side)
        huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
        with pytest.raises(ValueError, match="too large"):
            decode(bytes(huge))


def test_pixel_bound_is_inclusive(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 32)
    assert decode(encoded(photograph(), "PNG")).size == (48, 32)
    with pytest.raises(ValueError, match="too large"):
        decode(encoded(photograph(49, 32), "PNG"))

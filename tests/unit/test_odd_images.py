"""Images that other programs show and Pillow alone refuses or distorts; formats named; equal pixels by all ways in."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from dist_plm.data import formats, rgb
from dist_plm.data.decode import decode, extension
from dist_plm.data.picture import open_picture, read_file
from tests.unit.test_decode import encoded, photograph

WHITE = [255, 255, 255]


def chunk(kind: bytes, content: bytes, damage: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ damage)


def png(rows: np.ndarray, bits: int, colour: int, *more: bytes) -> bytes:
    """A PNG by the specification: `rows` are the packed bytes of each row, `more` chunks before the pixels."""
    height, width = rows.shape[0], rows.shape[1] * 8 // (bits * {0: 1, 2: 3}[colour])
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: np.ndarray, bits: int, photometric: int = 1, *, signed: bool = False) -> bytes:
    """A grey TIFF by the specification, uncompressed, one strip: `values` [h, w] in `bits` of 12, 16 or 32."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        both = pairs[:, 0] << 12 | pairs[:, 1]
        pixels = np.stack([both >> 16, both >> 8 & 255, both & 255], -1).astype(np.uint8).tobytes()
    else:
        pixels = values.astype(f"<u{bits // 8}").tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(pixels)), (339, 3, 1 + signed)]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + table + bytes(4)


def pixels(data: bytes) -> list:
    return np.asarray(decode(data)).tolist()


def test_a_transparent_colour_in_16_bits_is_that_colour_and_no_near_one():
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1235, 0x5678, 0x9ABC], [0x1234, 0x5600, 0x9ABC]]], ">u2")
    data = png(values.view(np.uint8).reshape(1, -1), 16, 2, chunk(b"tRNS", values[0, 0].tobytes()))
    near = [0x12, 0x56, 0x9A]
    assert pixels(data) == [[WHITE, near, near]]
    grey = np.array([[1000, 1001, 65535]], ">u2")
    data = png(grey.view(np.uint8).reshape(1, -1), 16, 0, chunk(b"tRNS", grey[0, :1].tobytes()))
    assert pixels(data) == [[WHITE, [3] * 3, WHITE]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_in_few_bits_is_that_grey(bits):
    most = (1 << bits) - 1
    samples = np.arange(8) % (most + 1)
    packed = np.packbits([int(b) for v in samples for b in f"{v:0{bits}b}"])[None]
    key = most if bits == 1 else 1
    expected = [WHITE if v == key else [v * 255 // most] * 3 for v in samples.tolist()]
    assert pixels(png(packed, bits, 0, chunk(b"tRNS", struct.pack(">H", key)))) == [expected]


def test_grey_in_12_bits_keeps_its_range():
    values = np.array([[0, 16, 2048, 4095]])
    assert np.asarray(decode(tiff(values, 12)))[0, :, 0].tolist() == [0, 0, 127, 255]


@pytest.mark.parametrize(
    ("kind", "top", "shown"),
    [
        ("<u4", 2**32 - 1, 255), ("<i4", 2**31 - 1, 255), ("<u4", 65535, 255), ("<i4", 65535, 255),
        ("<u4", 2**31 - 1, 127),
    ],
)  # fmt: skip
def test_grey_in_32_bits_uses_their_range_or_that_of_16(monkeypatch, kind, top, shown):
    monkeypatch.setattr(rgb, "STRIP", 8)  # two rows: the range is that of the image
    data = tiff(np.linspace(0, top, 16).astype(kind).reshape(4, 4), 32, signed=kind == "<i4")
    assert np.abs(np.array(pixels(data))[..., 0].ravel() - np.linspace(0, shown, 16)).max() <= 1


def test_grey_of_which_zero_is_white_is_turned_over():
    values = np.array([[0, 257, 65535]])
    assert np.asarray(decode(tiff(values, 16, photometric=0)))[0, :, 0].tolist() == [255, 254, 0]


LONG = b"Comment\0\0" + zlib.compress(b"x" * 3_000_000)


@pytest.mark.parametrize(
    "comment",
    [
        pytest.param(chunk(b"zTXt", LONG), id="long text"),
        pytest.param(chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG[9:]), id="long international text"),
        pytest.param(chunk(b"iCCP", b"profile\0\0" + LONG[9:]), id="long profile"),
        pytest.param(chunk(b"tEXt", b"Comment\0hello", damage=1), id="checksum of a text"),
        pytest.param(chunk(b"eXIf", b"MM\0*", damage=1), id="checksum of EXIF"),
        pytest.param(chunk(b"tIME", b"\7\xe4\1\1", damage=1), id="checksum of the time"),
        pytest.param(chunk(b"gAMA", b"\0"), id="short gamma"),
    ],
)
def test_a_comment_of_a_png_costs_no_image(comment):
    plain = np.random.default_rng(0).integers(0, 256, (5, 12), np.uint8)
    upright, turned = pixels(png(plain, 8, 2)), Image.Exif()
    turned[0x0112] = 6
    exif = chunk(b"eXIf", turned.tobytes()[6:])
    assert pixels(png(plain, 8, 2, comment)) == upright
    assert pixels(png(plain, 8, 2, comment, exif)) == np.rot90(upright, -1).tolist()
    after = png(plain, 8, 2)
    assert pixels(after[:-12] + comment + after[-12:]) == upright
    with pytest.raises(ValueError, match="damaged"):
        decode(png(plain, 8, 2, comment)[:-30])
    with pytest.raises(ValueError, match="damaged"):
        decode(png(plain, 8, 2, comment, chunk(b"tRNS", b"\0\1\0\1\0\1", damage=1)))


def odd_exif(orientation: int) -> bytes:
    """Orientation between a tag of an unknown type, one that points beyond the end, and one of a wrong length."""
    tags = [(0x0100, 99, 1, 5), (0x010F, 2, 4000, 9_000_000), (0x0112, 3, 1, orientation), (0x011A, 5, 1, 0xFFFFFF)]
    tags += [(0x0131, 2, 1, 7), (0x8769, 3, 7, 0)]
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_beside_odd_tags(form, orientation):
    turns = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
             5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x, -1),
             7: lambda x: np.rot90(x, 2).transpose(1, 0, 2), 8: np.rot90}  # fmt: skip
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(form, {})
    if form == "TIFF":
        exif: Image.Exif | bytes = Image.Exif()
        exif[0x0112], exif[0x9999] = orientation, b"odd"
    else:
        exif = odd_exif(orientation)
    upright = np.asarray(decode(encoded(photograph(), form, **options)))
    assert (np.asarray(decode(encoded(photograph(), form, exif=exif, **options))) == turns[orientation](upright)).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40), b"Exif\0\0no"]
)
def test_exif_that_is_none_costs_no_image(exif):
    assert pixels(encoded(photograph(), "JPEG", exif=exif)) == pixels(encoded(photograph(), "JPEG"))


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_newer_formats(form):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photograph()
    turned.info["exif"] = exif.tobytes()
    # A HEIC image is turned by a box of its own (irot), as cameras write it, and its EXIF is for information.
    data = encoded(turned, form, exif=exif.tobytes(), quality=95)
    assert extension(data) == {"AVIF": "avif", "HEIF": "heic"}[form]
    difference = np.asarray(decode(data)).astype(int) - np.rot90(np.asarray(photograph()), -1)
    assert np.abs(difference).mean() < 8
    for cut in (len(data) // 2, 40):
        with pytest.raises(ValueError, match="damaged"):
            decode(data[:cut])


def test_heic_without_the_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._has_heif.cache_clear()
    with pytest.raises(ValueError, match=r"HEIC.*pip install 'dist_plm\[heic\]'"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    formats._has_heif.cache_clear()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"\n<!DOCTYPE html><html>404", "HTML"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "video"),
        (b"P6\n4 4\n255\n", "PPM"),
        (b"%!PS-Adobe-3.0", "PostScript"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (bytes(5000), "starts with zeros"),
    ],
)
def test_what_is_not_read_is_named(data, named):
    with pytest.raises(ValueError, match="not an image") as caught:
        decode(data)
    assert named in str(caught.value)


EXIF_6 = Image.Exif()
EXIF_6[0x0112] = 6
KEY_16 = png(np.array([[0, 1, 0, 1, 0, 1, 0, 2, 0, 1, 0, 1]], np.uint8), 16, 2, chunk(b"tRNS", b"\0\1\0\1\0\1"))


@pytest.mark.parametrize(
    "data",
    [
        encoded(photograph(), "JPEG", exif=EXIF_6),
        encoded(photograph().convert("CMYK"), "JPEG", exif=EXIF_6),
        encoded(photograph().convert("LA"), "PNG"),
        encoded(photograph().convert("RGBA").rotate(30), "PNG"),
        encoded(Image.fromarray(np.arange(0, 65536, 4096, np.uint16)[None]), "PNG"),
        encoded(photograph().quantize(), "GIF", transparency=3),
        encoded(photograph(), "TIFF", exif=EXIF_6, compression="tiff_lzw"),
        KEY_16,
        tiff(np.array([[0, 16, 2048, 4095]]), 12),
    ],
    ids=["turned", "cmyk", "alpha", "rgba", "16 bit", "gif", "tiff", "key", "12 bit"],
)
def test_one_picture_has_one_form(tmp_path, data):
    path = tmp_path / "no suffix"
    path.write_bytes(data)
    expected = np.asarray(decode(data))
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    given = [data, bytearray(data), path, str(path), io.BytesIO(data), Image.open(path), expected, expected.copy()]
    given += [] if data is KEY_16 else [loaded, loaded.copy()] if "tag_v2" not in dir(loaded) else [loaded]
    for picture in given:
        assert (np.asarray(open_picture(picture)) == expected).all(), type(picture)


def test_arrays_of_all_channels():
    grey = np.array([[0, 200]], np.uint8)
    assert np.asarray(open_picture(grey)).tolist() == [[[0] * 3, [200] * 3]]
    assert np.asarray(open_picture(grey[..., None])).tolist() == [[[0] * 3, [200] * 3]]
    assert np.asarray(open_picture(grey.astype(np.uint16) * 257)).tolist() == [[[0] * 3, [200] * 3]]
    half = np.array([[[0, 0, 0, 51]]], np.uint8)
    assert np.asarray(open_picture(half)).tolist() == [[[204] * 3]]
    assert np.asarray(open_picture(half[..., 2:])).tolist() == [[[204] * 3]]
    for wrong in (np.zeros((3, 8, 8), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8), np.zeros(3, np.uint8)):
        with pytest.raises(ValueError, match="an array of"):
            open_picture(wrong)


def test_a_file_that_is_no_image_is_not_read_whole(tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"\0\0\0\x20ftypisom")
    with open(film, "r+b") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    with pytest.raises(ValueError, match="video"):
        read_file(film)
    film.write_bytes(b"\xff\xd8\xff")
    with open(film, "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="bytes, at most"):
        read_file(film)


def test_transparent_pixels_of_16_bits_in_strips(monkeypatch):
    """Which pixels have the transparent colour differs from row to row, and is cut with them."""
    values = np.random.default_rng(0).choice(np.array([0x0101, 0x0102], ">u2"), (40, 30)).repeat(3, 1)
    data = png(values.view(np.uint8), 16, 2, chunk(b"tRNS", b"\1\1" * 3))
    whole = np.asarray(decode(data))
    assert len(np.unique(whole)) == 2
    monkeypatch.setattr(rgb, "STRIP", 7 * 30)
    assert np.array_equal(np.asarray(decode(data)), whole)

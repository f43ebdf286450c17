"""Image formats by magic number, regardless of the file name: supported ones, and names of common others.

A closed list: Pillow would otherwise try every plugin on untrusted bytes, one of which starts Ghostscript.
"""

import re
from functools import cache
from typing import NamedTuple

HEAD = 64
"""Bytes needed to detect a format."""

HEIC_INSTALL = "pip install 'dist_plm[heic]'"


class Format(NamedTuple):
    """A supported format.

    Args:
        plugin: Pillow's name.
        extension: Of a file, without dot.
    """

    plugin: str
    extension: str


# MPO is the JPEG of phones with further pictures behind the first; Pillow's JPEG plugin opens it.
JPEG, PNG, GIF, BMP = Format("JPEG", "jpg"), Format("PNG", "png"), Format("GIF", "gif"), Format("BMP", "bmp")
TIFF, WEBP, AVIF, HEIC = Format("TIFF", "tif"), Format("WEBP", "webp"), Format("AVIF", "avif"), Format("HEIF", "heic")

SUPPORTED = "JPEG, PNG, WebP, BMP, GIF, TIFF and AVIF, and HEIC with pillow-heif"

# ISO base media files list brands in their first box, `ftyp`. A HEIC image has one that names the codec, or, like
# AVIF, one that names the structure (mif1: ISO/IEC 23008-12, section 10.2).
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}

_MAGIC = (
    (rb"\xff\xd8\xff", JPEG),
    (rb"\x89PNG\r\n\x1a\n", PNG),
    (rb"GIF8[79]a", GIF),
    (rb"BM", BMP),
    (rb"II\*\0|MM\0\*|II\0\*|MM\*\0|II\+\0|MM\0\+", TIFF),  # two of them come from faulty encoders
    (rb"RIFF....WEBP", WEBP),
)

_OTHERS = (
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"\s*(<\?xml|<svg)", "XML or SVG"),
    (rb"(?i:\s*<(!doctype )?html)", "an HTML page"),
    (rb"\0\0[\x01\x02]\0", "an icon"),
    (rb"P[1-7]\s", "PPM"),
    (rb"qoif", "QOI"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?RADIANCE", "Radiance HDR"),
    (rb"DDS ", "DDS"),
    (rb"FUJIFILMCCD-RAW", "a camera's raw format"),
    (rb"....ftyp", "a video"),
    (rb"RIFF....AVI |\x1aE\xdf\xa3", "a video"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`"),
)


def sniff(head: bytes) -> Format | None:
    """The supported format of a file that starts with these bytes (HEAD are enough); None for others."""
    form = next((form for magic, form in _MAGIC if re.match(magic, head, re.DOTALL)), None)
    if form is None and head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), HEAD)
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
        # An AVIF image lists AVIF; an image that lists neither has an unknown codec.
        form = AVIF if brands & _AVIF_BRANDS else HEIC if brands & _HEIC_BRANDS else None
    return form


def refusal(head: bytes) -> str:
    """Why a file that starts with these bytes can't be an image of the data set; empty if it can."""
    form = sniff(head)
    if form == HEIC and not _has_heif():
        return f"a HEIC image, which needs pillow-heif: {HEIC_INSTALL}"
    if form:
        return ""
    if not head:
        return "empty file"
    if not any(head):
        return "not an image: it starts with zeros, as an incompletely copied file does"
    other = next((name for magic, name in _OTHERS if re.match(magic, head, re.DOTALL)), "")
    return f"not an image in a supported format: it is {other}; supported are {SUPPORTED}" if other else "not an image"


@cache
def _has_heif() -> bool:
    """Whether HEIC can be decoded; registers pillow-heif with Pillow if it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True

"""Every mode by every writer of Pillow, turned and cut short: pixels or a ValueError, and none lost on the way.

DIST_PLM_FUZZ=N takes N times as many cases as the suite does; 40 is all of them.
"""

import io
import itertools
import json
import os
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from dist_plm.data.decode import extension
from dist_plm.data.format import Manifest
from dist_plm.data.formats import _has_heif
from dist_plm.data.picture import open_picture
from dist_plm.datasets import build
from dist_plm.distributed.world import World
from dist_plm.search_index.build import Builder
from dist_plm.search_index.images import FolderImages
from dist_plm.telemetry.progress import Display
from tests.untrained import untrained

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
FORMS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", *(["HEIF"] if _has_heif() else []))
OPTIONS: dict[str, tuple[dict, ...]] = {
    "JPEG": ({}, {"progressive": True}, {"quality": 100, "subsampling": 0}),
    "PNG": ({}, {"optimize": True}),
    "WEBP": ({}, {"lossless": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}),
}
CUTS = 20
EVERY = max(1, 40 // int(os.environ.get("DIST_PLM_FUZZ", "1")))

pytestmark = pytest.mark.filterwarnings("ignore")


def picture(mode: str) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (14, 21, 4), np.uint8)
    if mode in ("I", "I;16", "F"):
        deep = noise[..., 0].astype(np.uint16) * 257
        return Image.fromarray(deep if mode == "I;16" else deep.astype(np.int32 if mode == "I" else np.float32))
    base = Image.fromarray(noise, "RGBA")
    if mode == "PA":
        return base.convert("P").convert("PA")
    return (
        base.convert("RGB").convert(mode)
        if mode in ("LAB", "HSV", "YCbCr", "CMYK", "1", "P", "RGBX")
        else base.convert(mode)
    )


def corpus() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every EVERY-th image that Pillow writes."""
    cases = [
        (mode, form, orientation, number)
        for mode, form, orientation in itertools.product(MODES, FORMS, range(1, 9))
        for number in range(len(OPTIONS.get(form, ({},))))
    ]
    for mode, form, orientation, number in cases[3 % EVERY :: EVERY]:
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        try:
            picture(mode).save(file, form, exif=exif, **OPTIONS.get(form, ({},))[number])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            continue  # a mode that the format does not hold
        yield f"{mode.replace(';', '_')}-{form}-{orientation}-{number}", file.getvalue()


CORPUS = dict(corpus())


def outcome(given: object) -> np.ndarray | str:
    try:
        return np.asarray(open_picture(given))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", CORPUS)
def test_pixels_are_equal_by_all_ways_in(tmp_path, name):
    data = CORPUS[name]
    (tmp_path / "x").write_bytes(data)
    expected = outcome(data)
    if isinstance(expected, str):
        assert "floating-point" in expected, expected
        return
    orientation = 1 if "-GIF-" in name or "-BMP-" in name else int(name.split("-")[2])
    turned = (14, 21) if orientation < 5 or "HEIF" in name else (21, 14)
    assert expected.shape == (*turned, 3) and expected.dtype == np.uint8
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for way in (tmp_path / "x", str(tmp_path / "x"), io.BytesIO(data), Image.open(tmp_path / "x"), loaded, expected):
        assert np.array_equal(outcome(way), expected), type(way)


def cut(data: bytes) -> Iterator[bytes]:
    return (data[: len(data) * part // CUTS] for part in range(CUTS))


@pytest.mark.parametrize("name", list(CORPUS)[:: 4 if EVERY > 1 else 1])
def test_what_is_cut_short_is_told(name):
    for data in cut(CORPUS[name]):
        found, as_pillow = outcome(data), "no image"
        if isinstance(found, str):
            assert found and "\n" not in found.strip()
        try:
            image = Image.open(io.BytesIO(data))
            as_pillow = outcome(image)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            continue
        assert isinstance(as_pillow, str) == isinstance(found, str), "the same by a path and by Pillow"


@settings(max_examples=60 * (40 // EVERY), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_flipped_bytes_never_end_in_a_traceback(data):
    whole = bytearray(data.draw(st.sampled_from([CORPUS[name] for name in CORPUS])))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcome(bytes(whole))
        if not isinstance(found, str):
            assert found.ndim == 3 and extension(bytes(whole))


def test_none_is_lost_from_the_account(tmp_path, capsys):
    root, out, index = tmp_path / "in", tmp_path / "out", tmp_path / "index"
    expected: dict[str, bool] = {}
    for number, (name, data) in enumerate(CORPUS.items()):
        for part, piece in enumerate([data, *itertools.islice(cut(data), number % CUTS, number % CUTS + 1)]):
            path = root / f"class {number % 3}" / f"{name}.{part}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(piece)
            expected[str(path.relative_to(root))] = not isinstance(outcome(piece), str)
    assert build.main(["folder", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    rejected = {json.loads(line)["source"] for line in (out / "rejected.jsonl").read_text().splitlines()}
    assert rejected == {name for name, good in expected.items() if not good}
    assert sum(info.samples for info in Manifest.load(out).splits.values()) + len(rejected) == len(expected)
    Builder(FolderImages(root), untrained(), index, 1, World(), Display(World())).build()
    named = {json.loads(line)["name"] for line in (index / "unreadable.jsonl").read_text().splitlines()}
    taken = {json.loads(line)["name"] for line in (index / "images.jsonl").read_text().splitlines()}
    assert named == rejected and taken | named == set(expected)

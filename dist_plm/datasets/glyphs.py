"""Glyphs of the demo's classes: characters whose shapes stay distinct when rotated, mirrored and scaled."""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, gaussian_filter

FIELD = 64
"""Side of a glyph's distance field, pixels."""
BOX = 40
"""Longer side of the glyph inside its field, pixels."""
MAX_CLASSES = 400

_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "DIGIT")
_FONTS = ("DejaVuSans.ttf", "STIXGeneral.ttf", "DejaVuSerif-Bold.ttf")
_DESCRIPTOR = 20
# Cosine of two blurred, centred shapes: below 0.85 shapes look distinct to the eye.
_ALIKE = 0.85


class Glyph(NamedTuple):
    """A character of one font file of matplotlib."""

    font: str
    code: int

    @property
    def name(self) -> str:
        """Such as `U+0416 CYRILLIC CAPITAL LETTER ZHE, DejaVuSans`."""
        return f"U+{self.code:04X} {unicodedata.name(chr(self.code), 'UNNAMED')}, {Path(self.font).stem}"


def choose(count: int, seed: int) -> list[Glyph]:
    """The first `count` (at most MAX_CLASSES) distinct glyphs in a random order; a longer list starts like a shorter.

    Two glyphs are the same if one, rotated by a multiple of 90 degrees or mirrored, covers the other: views may be
    mirrored and poses are rotated, which must not change the class.
    """
    chosen: list[Glyph] = []
    known = np.empty((0, _DESCRIPTOR**2), np.float32)
    for glyph in _candidates(seed):
        shape = _descriptor(glyph)
        if shape is None:
            continue
        turned = [np.rot90(s, k) for s in (shape, shape.T) for k in range(4)]
        if len(known) and (known @ np.stack([t.ravel() for t in turned]).T).max() > _ALIKE:
            continue
        chosen.append(glyph)
        known = np.vstack([known, shape.reshape(1, -1)])
        if len(chosen) == count:
            return chosen
    raise AssertionError(f"the fonts hold {len(chosen)} distinct glyphs, {count} were asked for")


@lru_cache(maxsize=MAX_CLASSES)
def distance_field(glyph: Glyph) -> Image.Image:
    """Signed distance to the glyph's outline, positive inside, in pixels of the field: mode F, FIELD x FIELD.

    A field can be warped, thickened and outlined at any scale with smooth edges, unlike a bitmap.
    """
    ink = np.asarray(_drawn(glyph, 4 * FIELD, 4 * BOX)) > 127
    # Each transform counts to the centre of the nearest pixel across the outline, which lies half a pixel nearer.
    signed = distance_transform_edt(ink) - distance_transform_edt(~ink) - np.where(ink, 0.5, -0.5)
    return Image.fromarray(signed.astype(np.float32) / 4).resize((FIELD, FIELD), Image.Resampling.BOX)


def _candidates(seed: int) -> Iterator[Glyph]:
    """Letters, digits and mathematical signs of the fonts, shuffled; no letters that differ by an accent alone."""
    glyphs = [
        Glyph(font, code)
        for font in _FONTS
        for code in sorted(FT2Font(str(_path(font))).get_charmap())
        if _is_candidate(chr(code))
    ]
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return (glyphs[i] for i in rng.permutation(len(glyphs)))


def _is_candidate(character: str) -> bool:
    known = unicodedata.name(character, "").startswith(_SCRIPTS) and unicodedata.category(character)[0] in "LN"
    return (known or unicodedata.category(character) == "Sm") and not unicodedata.decomposition(character)


def _descriptor(glyph: Glyph) -> np.ndarray | None:
    """The glyph's shape without scale: [20, 20], mean 0, norm 1. None if it is too thin or too small."""
    ink = np.asarray(_drawn(glyph, 2 * FIELD, 2 * BOX), np.float32) / 255
    side = np.ptp(np.argwhere(ink > 0.5), axis=0).min() if (ink > 0.5).any() else 0
    if side < BOX or not 0.12 < ink.sum() / (2 * BOX) ** 2 < 0.7:
        return None
    small = np.asarray(Image.fromarray(gaussian_filter(ink, 4)).resize((_DESCRIPTOR,) * 2, Image.Resampling.BOX))
    centred = small - small.mean()
    return centred / np.linalg.norm(centred)


def _drawn(glyph: Glyph, side: int, box: int) -> Image.Image:
    """The glyph in white on black, its longer side `box` pixels, centred: mode L, side x side."""
    font = _font(glyph.font, 2 * box)
    left, top, right, bottom = font.getbbox(chr(glyph.code))
    size = (max(1, int(right - left)), max(1, int(bottom - top)))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).text((-left, -top), chr(glyph.code), fill=255, font=font)
    scale = box / max(size)
    mask = mask.resize((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), Image.Resampling.BOX)
    drawn = Image.new("L", (side, side))
    drawn.paste(mask, ((side - mask.width) // 2, (side - mask.height) // 2))
    return drawn


@lru_cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_path(file)), size, layout_engine=ImageFont.Layout.BASIC)


def _path(file: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file

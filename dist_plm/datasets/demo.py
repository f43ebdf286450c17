"""Rendered glyphs: a class is a character, an image shows it in a new pose, stroke, colour and background.

Classes differ in shape only. Image i is a pure function of (seed, i), and the splits have no glyph in common.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from dist_plm.datasets.entry import Entry, Source
from dist_plm.datasets.glyphs import BOX, FIELD, MAX_CLASSES, Glyph, choose, distance_field
from dist_plm.errors import UserError

# Two hues for all images. A random hue would identify an image without its shape, and augmentation keeps the hue: a
# network trained to tell images apart would learn colours only. For the same reason the ink is always darker;
# brightness, which augmentation changes, may vary.
PAPER = np.array([255, 244, 222], np.float32)
INK = np.array([150, 190, 255], np.float32)

IMAGES_PER_CLASS = 50
# Bytes of a 64-pixel image, measured; only the partition into shards depends on it.
_BYTES_PER_PIXEL = 0.4


@dataclass(frozen=True, kw_only=True)
class GlyphEntry(Entry):
    """An image of a glyph, rendered when it is read.

    Args:
        glyph: The character.
        seed: Seed of the data set.
        index: Number of the image in the data set.
        pixels: Side, pixels.
    """

    glyph: Glyph
    seed: int
    index: int
    pixels: int

    def read(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(render(self.glyph, self.seed, self.index, self.pixels)).save(file, "JPEG", quality=88)
        return file.getvalue()


def source(images: int, *, classes: int, pixels: int, seed: int) -> Source:
    """The demo data set: half of the images and of the classes train, the others test.

    Args:
        images: Of both splits.
        classes: Of both splits; 0 takes one per 50 images.
        pixels: Side of an image.
        seed: Of glyphs and images.
    """
    if images < 2:
        raise UserError(f"--images {images}: must be at least 2, one for each split")
    classes = classes or min(max(2 * (images // (2 * IMAGES_PER_CLASS)), 4), MAX_CLASSES, images)
    if not 2 <= classes <= min(images, MAX_CLASSES):
        raise UserError(f"--classes {classes}: must lie in 2 .. {min(images, MAX_CLASSES)} for {images} images")
    if not 16 <= pixels <= 1024:
        raise UserError(f"--size {pixels}: must lie in 16 .. 1024 pixels")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: must lie in 0 .. 2^63 - 1")
    glyphs = choose(classes, seed)
    halves = {"train": glyphs[: (classes + 1) // 2], "test": glyphs[(classes + 1) // 2 :]}
    ranges = {"train": range((images + 1) // 2), "test": range((images + 1) // 2, images)}

    def entries() -> Iterator[Entry]:
        for split, half in halves.items():
            for index in ranges[split]:
                label = index % len(half)
                yield GlyphEntry(
                    split=split,
                    source=f"glyph/{index:09d}",
                    label=label,
                    class_name=half[label].name,
                    size=round(pixels**2 * _BYTES_PER_PIXEL),
                    glyph=half[label],
                    seed=seed,
                    index=index,
                    pixels=pixels,
                )

    return Source("demo", {split: [glyph.name for glyph in half] for split, half in halves.items()}, entries, images)


def render(glyph: Glyph, seed: int, index: int, pixels: int) -> np.ndarray:
    """Image `index` of the data set `seed`, showing `glyph`: uint8 [pixels, pixels, 3]."""
    # The second word of the key keeps clear of (seed, 0), which shuffles the glyphs.
    rng = np.random.Generator(np.random.Philox(key=[seed, index + 1]))
    distance = _posed(glyph, rng, pixels)
    weight = rng.uniform(-0.005, 0.02) * pixels
    if rng.random() < 0.1:
        # An outline: the ink keeps within a stroke of the edge.
        distance = 0.035 * pixels - np.abs(distance)
        weight = 0.0
    coverage = np.clip(0.5 + distance + weight, 0, 1)[..., None]
    ground = PAPER * rng.uniform(0.65, 0.95, 1).astype(np.float32) + _clouds(rng, pixels, 20.0)
    ink = INK * rng.uniform(0.15, 0.5, 1).astype(np.float32) + _clouds(rng, pixels, 10.0)
    image = ground + coverage * (ink - ground)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 6))
    picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.01) * pixels)))


def _posed(glyph: Glyph, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """The glyph's distance field under a random affine map with some perspective, in pixels of the image [s, s]."""
    angle = math.radians(rng.uniform(-20, 20))
    shear, aspect, scale = rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15), rng.uniform(0.45, 0.85)
    # From the image to the field: the inverse of rotate(shear(stretch(field))).
    unit = BOX / (scale * pixels)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    inverse = np.array([[math.exp(aspect), shear], [0, math.exp(-aspect)]]) @ turn * unit
    room = (1 - scale) / 2 * pixels
    centre = pixels / 2 + rng.uniform(-room, room, 2)
    tilt = rng.uniform(-0.3, 0.3, 2) / pixels
    # (x, y) -> F / 2 + inverse (p - centre) / (1 + tilt (p - centre)), as PIL's (a x + b y + c) / (g x + h y + 1)
    one = 1 - tilt @ centre
    numerator = inverse + FIELD / 2 * tilt
    constant = FIELD / 2 * one - inverse @ centre
    rows = np.column_stack([numerator, constant]) / one
    warped = distance_field(glyph).transform(
        (pixels, pixels),
        Image.Transform.PERSPECTIVE,
        (*rows[0], *rows[1], *(tilt / one)),
        Image.Resampling.BILINEAR,
        fillcolor=-FIELD,
    )
    return np.asarray(warped) / unit


def _clouds(rng: np.random.Generator, pixels: int, strength: float) -> np.ndarray:
    """Uneven brightness, float32 [s, s, 1] around 0, at most about `strength`, in patches of a fifth of the image."""
    coarse = rng.uniform(-strength, strength, (5, 5)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((pixels, pixels), Image.Resampling.BICUBIC))[..., None]

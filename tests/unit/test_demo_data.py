"""The rendered data set: reproducible, split by glyph, hard for raw pixels and not impossible."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from dist_plm.datasets import demo
from dist_plm.datasets.glyphs import choose, distance_field
from dist_plm.errors import UserError


def test_an_image_depends_on_seed_and_index_alone():
    glyph = choose(2, 0)[0]
    first = demo.render(glyph, 7, 11, 64)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    demo.render(glyph, 7, 12, 64)
    assert (demo.render(glyph, 7, 11, 64) == first).all()
    assert (demo.render(glyph, 7, 12, 64) != first).any()
    assert (demo.render(glyph, 8, 11, 64) != first).any()


def test_splits_share_no_glyph_and_classes_are_balanced():
    source = demo.source(400, classes=10, pixels=32, seed=0)
    entries = list(source.entries())
    train, test = ([e for e in entries if e.split == split] for split in ("train", "test"))
    assert (len(train), len(test), source.total) == (200, 200, 400)
    assert not {e.glyph for e in train} & {e.glyph for e in test}
    for split, part in (("train", train), ("test", test)):
        assert np.bincount([e.label for e in part]).tolist() == [40] * 5
        assert all(source.classes[split][e.label] == e.class_name == e.glyph.name for e in part)
    assert len({e.key for e in entries}) == 400


def test_few_images_have_as_many_classes_or_are_refused():
    for images in (2, 3):
        splits = demo.source(images, classes=0, pixels=32, seed=0).classes
        assert sum(map(len, splits.values())) == images
    with pytest.raises(UserError, match="--images 1: must be at least 2"):
        demo.source(1, classes=0, pixels=32, seed=0)


def test_a_million_images_are_listed_one_at_a_time():
    source = demo.source(1_000_000, classes=20, pixels=64, seed=0)
    entries = source.entries()
    assert iter(entries) is entries
    assert [e.index for e in itertools.islice(entries, 3)] == [0, 1, 2]


def test_a_longer_list_of_glyphs_starts_like_a_shorter_one():
    assert choose(40, 3)[:15] == choose(15, 3)
    assert choose(15, 3) != choose(15, 4)


def test_distance_field_is_positive_inside_and_a_distance():
    field = np.asarray(distance_field(choose(1, 0)[0]))
    assert field.max() > 1 and field[0, 0] < -5
    # A distance changes by at most the length of the step.
    assert np.abs(np.diff(field, axis=0)).max() < 1.1 and np.abs(np.diff(field, axis=1)).max() < 1.1


def test_ink_shows_the_glyph_where_the_pose_puts_it():
    glyph = choose(1, 0)[0]
    for index in range(20):
        rng = np.random.Generator(np.random.Philox(key=[0, index + 1]))
        inside = demo._posed(glyph, rng, 64)
        image = demo.render(glyph, 0, index, 64).mean(-1)
        assert (inside > 0).any()
        # Within the shape it is darker than far from it, be it filled or drawn as an outline.
        assert image[np.abs(inside) < 1].mean() < image[inside < -6].mean() - 15


def test_raw_pixels_find_some_neighbours_and_miss_most():
    entries = [e for e in demo.source(3000, classes=60, pixels=64, seed=0).entries() if e.split == "test"][:900]
    images = [Image.open(io.BytesIO(e.read())).convert("L").resize((32, 32), Image.Resampling.BOX) for e in entries]
    points = np.stack([np.asarray(image, np.float32).ravel() for image in images])
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    labels = np.array([e.label for e in entries])
    recall = (labels[distances.argmin(1)] == labels).mean()
    assert 0.08 < recall < 0.45  # chance is 0.03


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"classes": 100_000}, {"pixels": 8}, {"seed": -1}])
def test_wrong_options(wrong):
    with pytest.raises(UserError, match=f"--{'size' if 'pixels' in wrong else next(iter(wrong))}"):
        demo.source(**{"images": 100, "classes": 4, "pixels": 32, "seed": 0} | wrong)

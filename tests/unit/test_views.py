"""Views: pure functions of (seed, epoch, sample, view) with the distribution of a random resized crop."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dist_plm.data.views import eval_view, train_view
from tests.settings import views_of


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def coordinates(side: int = 256) -> Image.Image:
    """Red is x, green is y: a crop shows where it came from."""
    y, x = np.mgrid[:side, :side].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1))


def crop_of(view: np.ndarray) -> tuple[float, float, float, float, bool]:
    """Left, top, width, height and flip of a view of `coordinates`, from its slopes (edges are filtered)."""
    size = view.shape[-1]
    x, y = view[0].mean(axis=0), view[1].mean(axis=1)
    steps = size - 1 - 2 * 8
    slope_x, slope_y = (x[-9] - x[8]) / steps, (y[-9] - y[8]) / steps
    width, height = abs(slope_x) * size, slope_y * size
    return x.mean() + 0.5 - width / 2, y.mean() + 0.5 - height / 2, width, height, bool(slope_x < 0)


def test_a_view_depends_on_its_four_numbers_only():
    image, config = noise(90, 70), views_of(size=32, brightness=0.3)
    names = [(seed, epoch, sample, view) for seed in (0, 1) for epoch in (0, 1) for sample in (0, 1) for view in (0, 1)]

    def make(name):
        seed, epoch, sample, view = name
        return train_view(image, config=config, seed=seed, epoch=epoch, sample=sample, view=view).tobytes()

    first = {name: make(name) for name in names}
    assert len(set(first.values())) == len(names)
    shuffled = random.Random(0).sample(names * 5, len(names) * 5)
    np.random.seed(1)
    with ThreadPoolExecutor(4) as pool:
        assert all(data == first[name] for name, data in zip(shuffled, pool.map(make, shuffled), strict=True))


def test_streams_of_neighbours_are_unrelated_and_large_numbers_count():
    image, config = coordinates(), views_of(size=64)
    left = lambda **name: crop_of(train_view(image, config=config, **name))[0]  # noqa: E731
    by_sample = [left(seed=0, epoch=0, sample=i, view=0) for i in range(400)]
    by_view = [left(seed=0, epoch=0, sample=i, view=1) for i in range(400)]
    by_epoch = [left(seed=0, epoch=1, sample=i, view=0) for i in range(400)]
    # 400 independent pairs: the correlation has a standard deviation of 0.05.
    assert abs(np.corrcoef(by_sample, by_view)[0, 1]) < 0.2
    assert abs(np.corrcoef(by_sample, by_epoch)[0, 1]) < 0.2
    assert abs(np.corrcoef(by_sample[1:], by_sample[:-1])[0, 1]) < 0.2
    assert left(seed=0, epoch=0, sample=2**40, view=0) != left(seed=0, epoch=0, sample=0, view=0)


def test_distribution_of_crops_and_flips():
    image, config = coordinates(), views_of(size=64, scale=(0.16, 1.0), flip=0.3)
    n = 2000
    crops = np.array([crop_of(train_view(image, config=config, seed=3, epoch=0, sample=i, view=0)) for i in range(n)])
    area, log_ratio = crops[:, 2] * crops[:, 3] / 256**2, np.log(crops[:, 2] / crops[:, 3])
    expected = np.array([reference_crop(256, 256, config.scale, random.Random(i)) for i in range(20_000)])
    expected_area = expected[:, 0] * expected[:, 1] / 256**2
    # Kolmogorov-Smirnov distance of 2,000 against 20,000 draws: 0.0456 is exceeded with a probability of 0.001.
    assert ks(area, expected_area) < 0.0456
    assert ks(log_ratio, np.log(expected[:, 0] / expected[:, 1])) < 0.0456
    assert area.min() < 0.18 and area.max() > 0.97
    assert abs(crops[:, 4].mean() - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    # The free room is used evenly, up to both ends.
    room = crops[:, 0] / np.maximum(256 - crops[:, 2], 1e-9)
    room = room[crops[:, 2] < 200]
    assert abs(room.mean() - 0.5) < 4 * (1 / 12 / len(room)) ** 0.5
    assert room.min() < 0.02 and room.max() > 0.98


def reference_crop(width, height, scale, draw):
    """Width and height of a random resized crop, by rejection until one fits (a square image needs few tries)."""
    while True:
        area = draw.uniform(*scale) * width * height
        ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        if w <= width + 0.5 and h <= height + 0.5:
            return round(w), round(h)


def ks(a, b):
    grid = np.sort(np.concatenate([a, b]))
    return np.abs(
        np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)
    ).max()


def test_no_flip_and_sure_flip_mirror_each_other():
    image = noise(80, 60)
    name = {"seed": 0, "epoch": 0, "sample": 5, "view": 0}
    plain = train_view(image, config=views_of(size=24, flip=0.0), **name)
    mirrored = train_view(image, config=views_of(size=24, flip=1.0), **name)
    assert (mirrored == plain[:, :, ::-1]).all()


def test_brightness_stays_within_its_bounds_and_moves():
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    config = views_of(size=16, brightness=0.2)
    values = [int(train_view(grey, config=config, seed=0, epoch=0, sample=i, view=0)[0, 0, 0]) for i in range(300)]
    # On a flat image contrast does nothing, so the value is 100 x the brightness factor.
    assert 80 <= min(values) < 84 and 116 < max(values) <= 120
    assert abs(np.mean(values) - 100) < 4 * 40 / 12**0.5 / 300**0.5


def test_contrast_stretches_about_the_mean_grey():
    row = np.repeat(np.array([60, 140], np.uint8), 600)
    halves = Image.fromarray(np.broadcast_to(row[None, :, None], (900, 1200, 3)).copy())
    plain = views_of(size=16, scale=(0.9, 1.0), flip=0.0)
    config = replace(plain, brightness=0.2)
    ratios = []
    for i in range(100):
        name = {"seed": 0, "epoch": 0, "sample": i, "view": 0}
        before, after = (train_view(halves, config=c, **name).astype(float) for c in (plain, config))
        assert 0.79 < after.mean() / before.mean() < 1.21
        ratios.append((after.std() / after.mean()) / (before.std() / before.mean()) if before.std() > 5 else 1.0)
    assert min(ratios) > 0.78 and max(ratios) < 1.22
    assert np.ptp(ratios) > 0.2


@pytest.mark.parametrize("size", [(256, 256), (301, 256), (256, 397), (500, 333), (90, 120), (37, 211)])
def test_eval_view_is_resize_then_centre_crop(size):
    image, config = noise(*size), views_of(size=113, resize=128)
    width, height = (128 if side == min(size) else int(128 * side / min(size)) for side in size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 113) / 2), round((height - 113) / 2)
    expected = np.asarray(resized.crop((left, top, left + 113, top + 113))).astype(int)
    got = eval_view(image, config=config).transpose(1, 2, 0).astype(int)
    # Pillow rounds to 8 bits between its two passes, and which comes first depends on the shapes when it enlarges.
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < (0.01 if min(size) >= 128 else 0.3)
    assert abs((got - expected).mean()) < 0.01


def test_eval_view_keeps_pixels_where_no_resize_is_needed():
    image = noise(256, 300)
    got = eval_view(image, config=views_of(size=227, resize=256))
    left, top = round((256 - 227) / 2), round((300 - 227) / 2)
    assert (got == np.asarray(image)[top : top + 227, left : left + 227].transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (2, 3), (3000, 7)])
def test_any_shape_of_image_gives_a_view(size):
    image, config = Image.new("RGB", size, (10, 20, 30)), views_of(size=227, resize=256)
    views = [eval_view(image, config=config)]
    views += [train_view(image, config=config, seed=0, epoch=0, sample=i, view=0) for i in range(20)]
    for view in views:
        assert view.shape == (3, 227, 227) and view.dtype == np.uint8 and view.flags["C_CONTIGUOUS"]
        assert (view == np.array([10, 20, 30], np.uint8)[:, None, None]).all()

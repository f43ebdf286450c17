"""Views of an image: random resized crop and flip for training, resize and centre crop for evaluation.

The random numbers of a view are a pure function of (seed, epoch, sample, view): pixels depend neither on the order of
reads nor on the number of ranks or threads, and there is no generator state to save.
"""

import math

import numpy as np
from PIL import Image

from dist_plm.config import ViewsConfig

# Aspect ratios of a crop and the number of attempts, the standard values since Inception.
RATIO = (3 / 4, 4 / 3)
TRIES = 10

Box = tuple[float, float, float, float]


def train_view(image: Image.Image, *, config: ViewsConfig, seed: int, epoch: int, sample: int, view: int) -> np.ndarray:
    """Random resized crop, flip, and optional brightness and contrast jitter.

    Args:
        image: RGB, any size from 1 x 1.
        config: Size, scale, flip, brightness.
        seed: Of the run; like the next three a whole number in [0, 2^64).
        epoch: Number of the epoch.
        sample: Id of the image.
        view: Number of the view of the image.

    Returns:
        uint8 [3, size, size], contiguous.
    """
    draw = _generator(seed, epoch, sample, view)
    out = image.resize((config.size, config.size), _filter(config), box=_random_box(image.size, config, draw))
    if draw.random() < config.flip:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.brightness > 0:
        out = _change_light(out, config.brightness, draw)
    return _channels_first(out)


def eval_view(image: Image.Image, *, config: ViewsConfig) -> np.ndarray:
    """Shorter side to `config.resize`, then the centre `config.size` x `config.size`; needs size <= resize.

    Only the crop box is resampled, once and directly from the image: the pixels of resize and crop to within one level
    of 255, and a strip of 1 x 10,000 never becomes 256 x 2,560,000.

    Returns:
        uint8 [3, size, size], contiguous.
    """
    width, height = image.size
    short = min(width, height)
    # Whole pixels of the resized image, rounded like torchvision's Resize and CenterCrop.
    resized = (config.resize * width // short, config.resize * height // short)
    left, top = (round((side - config.size) / 2) for side in resized)
    box = (
        left * width / resized[0],
        top * height / resized[1],
        (left + config.size) * width / resized[0],
        (top + config.size) * height / resized[1],
    )
    return _channels_first(image.resize((config.size, config.size), _filter(config), box=box))


def _filter(config: ViewsConfig) -> Image.Resampling:
    return Image.Resampling.BICUBIC if config.interpolation == "bicubic" else Image.Resampling.BILINEAR


def _generator(seed: int, epoch: int, sample: int, view: int) -> np.random.Generator:
    """Philox counts in the lowest of its four counter words; the other words and the key name the stream.

    So no two (seed, epoch, sample, view) share a number before 2^64 blocks of one stream, and a view draws about ten.
    """
    counter = np.array([0, view, sample, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64), counter=counter))


def _random_box(size: tuple[int, int], config: ViewsConfig, draw: np.random.Generator) -> Box:
    """Share of the area uniform in `config.scale`, aspect ratio log-uniform in RATIO, position uniform.

    If no box fits within TRIES, as in a very long image, the largest central box with an allowed ratio.
    """
    width, height = size
    low, high = config.scale
    for _ in range(TRIES):
        area = width * height * (low + (high - low) * draw.random())
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** draw.random()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.random() * (width - w + 1)), int(draw.random() * (height - h + 1))
            return (left, top, left + w, top + h)
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return (left, top, left + w, top + h)


def _change_light(image: Image.Image, most: float, draw: np.random.Generator) -> Image.Image:
    """Multiply by a brightness factor, then stretch about the mean grey by a contrast factor, each in 1 -+ `most`."""
    brightness, contrast = (1 + most * (2 * draw.random() - 1) for _ in range(2))
    grey = np.asarray(image.convert("L")).mean() * brightness
    # Both are point operations on a channel, so one lookup table of 256 entries does them in one pass, rounded once.
    table = (np.arange(256) * brightness - grey) * contrast + grey
    return image.point(np.rint(table).clip(0, 255).astype(int).tolist() * 3)


def _channels_first(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

"""Embeds images for an index; threads read, decode and crop ahead."""

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from dist_plm.config import ViewsConfig
from dist_plm.data.decode import decode
from dist_plm.data.stream import Ahead
from dist_plm.data.views import eval_view
from dist_plm.encoders.embedder import Embedder
from dist_plm.errors import RunFailure
from dist_plm.index.embedding_pass import DIVERGED
from dist_plm.search_index.images import Images

BATCH = 64


class NotFinite(RunFailure):
    """An embedding is not finite, and will not be in another attempt."""


class EmbeddedGroup(NamedTuple):
    """Some images of an index.

    Args:
        vectors: float32 [n, D], of those that could be read.
        rows: What is known of each of them.
        unreadable: Name and reason of each of the others.
    """

    vectors: np.ndarray
    rows: list[dict[str, Any]]
    unreadable: list[dict[str, str]]


class DecodedImage(NamedTuple):
    """A decoded image to be embedded."""

    number: int
    pixels: np.ndarray | None  # None if unreadable
    noted: dict[str, Any]  # size, time and digest, or the reason


ViewsAhead = Ahead[int, DecodedImage]


def views_ahead(images: Images, groups: Iterable[Sequence[int]], config: ViewsConfig, workers: int) -> ViewsAhead:
    """Views of groups of images, by number, prefetched by threads; to be closed."""
    return Ahead((_each(group) for group in groups), partial(_view, images, config), workers, most=2 * BATCH)


def embed_group(images: Images, ahead: ViewsAhead, embedder: Embedder, advance: Callable[[int], None]) -> EmbeddedGroup:
    """Embed the next group of `ahead`, which is of `images`; `advance` is called after each batch.

    Raises:
        NotFinite: an embedding is not finite.
    """
    vectors, rows, unreadable = [np.empty((0, embedder.dim), np.float32)], [], []
    for batch in ahead.batches(BATCH):
        pixels = []
        for view in batch:
            known = images.about(view.number)
            if view.pixels is None:
                unreadable.append({"name": known["name"], **view.noted})
            else:
                rows.append({**known, **view.noted})
                pixels.append(view.pixels)
        if pixels:
            vectors.append(embedder.embed(torch.from_numpy(np.stack(pixels))).float().cpu().numpy())
            if not np.isfinite(vectors[-1]).all():
                row = rows[len(rows) - len(pixels) + int((~np.isfinite(vectors[-1])).any(1).argmax())]
                raise NotFinite(f"the embedding of {row['name']!a:.200} is not finite: {DIVERGED}")
        advance(len(batch))
    return EmbeddedGroup(np.concatenate(vectors), rows, unreadable)


def _each(numbers: Sequence[int]) -> Generator[int, None, None]:
    yield from numbers


def _view(images: Images, config: ViewsConfig, number: int) -> DecodedImage:
    stamp = images.stamp(number)
    noted: dict[str, Any] = {} if stamp is None else stamp._asdict()
    try:
        data = images.read(number)
        pixels = eval_view(decode(data), config=config)
    except (ValueError, OSError) as error:
        return DecodedImage(number, None, {"reason": getattr(error, "strerror", None) or str(error), **noted})
    if noted:
        noted["sha256"] = hashlib.sha256(data).hexdigest()
    return DecodedImage(number, pixels, noted)

"""Images to rows of an index: read, decoded and cut by threads while the batch before is embedded."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from dist_plm.config import ViewsConfig
from dist_plm.data.decode import decode
from dist_plm.data.views import eval_view
from dist_plm.encoders.embedder import Embedder
from dist_plm.errors import RunFailure
from dist_plm.index.embedding_pass import DIVERGED
from dist_plm.search_index.images import Images

BATCH = 64


class Embedded(NamedTuple):
    """Some images of an index.

    Args:
        vectors: float32 [n, D], of those that could be read.
        rows: What is known of each of them.
        unreadable: Name and reason of each of the others.
    """

    vectors: np.ndarray
    rows: list[dict[str, Any]]
    unreadable: list[dict[str, str]]


class _View(NamedTuple):
    number: int
    pixels: np.ndarray | None  # None of an image that can't be read
    noted: dict[str, Any]  # what tells later whether the image changed, or the reason


def embed_numbers(
    images: Images,
    numbers: Sequence[int],
    embedder: Embedder,
    pool: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> Embedded:
    """Embed the images with these numbers; `advance` is told of each batch.

    Raises:
        RunFailure: an embedding is not finite.
    """
    vectors, rows, unreadable = [np.empty((0, embedder.dim), np.float32)], [], []
    for batch in _batches(images, numbers, embedder.views, pool):
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
                raise RunFailure(f"the embedding of {row['name']!a:.200} is not finite: {DIVERGED}")
        advance(len(batch))
    return Embedded(np.concatenate(vectors), rows, unreadable)


def _batches(
    images: Images, numbers: Sequence[int], config: ViewsConfig, pool: ThreadPoolExecutor
) -> Iterator[list[_View]]:
    """Views in order; while one batch is embedded the next is decoded."""
    pending: deque[Future[_View]] = deque()
    for number in numbers:
        pending.append(pool.submit(_view, images, number, config))
        if len(pending) == 2 * BATCH:
            yield [pending.popleft().result() for _ in range(BATCH)]
    while pending:
        yield [pending.popleft().result() for _ in range(min(BATCH, len(pending)))]


def _view(images: Images, number: int, config: ViewsConfig) -> _View:
    stamp = images.stamp(number)
    noted: dict[str, Any] = {} if stamp is None else stamp._asdict()
    try:
        data = images.read(number)
        pixels = eval_view(decode(data), config=config)
    except (ValueError, OSError) as error:
        return _View(number, None, {"reason": getattr(error, "strerror", None) or str(error), **noted})
    if noted:
        noted["sha256"] = hashlib.sha256(data).hexdigest()
    return _View(number, pixels, noted)

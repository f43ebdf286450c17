"""The sequential sweep: shards are read from front to back and become batches to embed.

A batch never crosses a shard and depends on nothing but the shard, so an embedding does not depend on who reads it.
"""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any

import numpy as np
import torch

from dist_plm.config import ViewsConfig
from dist_plm.data.store import ADVICE, Store
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError


def sweep_shards(
    store: Store, shards: Iterable[int], *, config: ViewsConfig, batch_size: int, workers: int
) -> Generator[tuple[int, torch.Tensor], None, None]:
    """Evaluation views of the samples of some shards, in order.

    While the caller works on one batch, `workers` threads decode the next, be they of another shard; no more views than
    two batches hold are ever in memory.

    Args:
        store: The split.
        shards: Positions in `store.shards`.
        config: `size` and `resize` of the views.
        batch_size: Images in a batch; the last of a shard may hold fewer.
        workers: Decoding threads.

    Yields:
        Position of the shard, and views of it, uint8 [b, 3, size, size].

    Raises:
        UserError: If a shard is damaged, a sample is no image, or the number of samples is not the manifest's. The last
            shows only at the end, so keep nothing of a shard before another has begun, or the sweep has ended.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
    pending: deque[tuple[int, Future[np.ndarray]]] = deque()
    samples = _samples(store, shards)
    try:
        for shard, name, item in samples:
            pending.append((shard, pool.submit(_view, store, shard, name, item, config)))
            if len(pending) == 2 * batch_size:
                yield _batch(pending, batch_size)
        while pending:
            yield _batch(pending, batch_size)
    finally:
        pool.shutdown(cancel_futures=True)
        samples.close()


def _samples(store: Store, shards: Iterable[int]) -> Generator[tuple[int, str, Any], None, None]:
    for shard in shards:
        with closing(store.in_order(shard)) as samples:
            for name, item in samples:
                yield shard, name, item


def _batch(pending: deque[tuple[int, Future[np.ndarray]]], batch_size: int) -> tuple[int, torch.Tensor]:
    """The first views that wait, of one shard and no more than `batch_size`."""
    shard = pending[0][0]
    views: list[Future[np.ndarray]] = []
    while pending and pending[0][0] == shard and len(views) < batch_size:
        views.append(pending.popleft()[1])
    # One wake-up a batch: waiting for each view in turn takes the GIL from the workers once an image.
    wait(views, return_when=FIRST_EXCEPTION)
    return shard, torch.from_numpy(np.stack([view.result() for view in views]))


def _view(store: Store, shard_index: int, name: str, item: Any, config: ViewsConfig) -> np.ndarray:
    try:
        return eval_view(store.decoded(item), config=config)
    except ValueError as error:
        shard = store.shards[shard_index]
        raise UserError(f"{store.place}/{shard.path.name}: sample '{name}': {error}; {ADVICE} {store.place}") from error

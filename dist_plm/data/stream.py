"""The sequential sweep: one shard is read from front to back and becomes batches to embed.

A batch never crosses a shard and depends on nothing but the shard, so an embedding does not depend on who reads it.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from dist_plm.config import ViewsConfig
from dist_plm.data.store import ADVICE, Store
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError


def sweep_shard(
    store: Store, shard_index: int, *, config: ViewsConfig, batch_size: int, workers: int
) -> Iterator[torch.Tensor]:
    """Evaluation views of the samples of one shard, in order.

    While the caller works on one batch, `workers` threads decode the next; no more than two are ever in memory.

    Args:
        store: The split.
        shard_index: Position in `store.shards`.
        config: `size` and `resize` of the views.
        batch_size: Images in a batch; the last of the shard may hold fewer.
        workers: Decoding threads.

    Yields:
        uint8 [b, 3, size, size].

    Raises:
        UserError: If the shard is damaged, a sample is no image, or the number of samples is not the manifest's. The
            last shows only at the end, so keep nothing of a shard whose sweep has not ended.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
    pending: deque[Future[np.ndarray]] = deque()
    samples = store.in_order(shard_index)
    try:
        for name, item in samples:
            pending.append(pool.submit(_view, store, shard_index, name, item, config))
            if len(pending) == 2 * batch_size:
                yield _batch(pending, batch_size)
        while pending:
            yield _batch(pending, batch_size)
    finally:
        pool.shutdown(cancel_futures=True)
        samples.close()


def _batch(pending: deque[Future[np.ndarray]], batch_size: int) -> torch.Tensor:
    views = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
    # One wake-up a batch: waiting for each view in turn takes the GIL from the workers once an image.
    wait(views, return_when=FIRST_EXCEPTION)
    return torch.from_numpy(np.stack([view.result() for view in views]))


def _view(store: Store, shard_index: int, name: str, item: Any, config: ViewsConfig) -> np.ndarray:
    try:
        return eval_view(store.decoded(item), config=config)
    except ValueError as error:
        shard = store.shards[shard_index]
        raise UserError(f"{store.place}/{shard.path.name}: sample '{name}': {error}; {ADVICE} {store.place}") from error

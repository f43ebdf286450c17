"""The sequential sweep: shards are read from front to back and become batches to embed.

A batch never crosses a shard and depends on nothing but the shard, so an embedding does not depend on who reads it.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Any

import numpy as np
import torch
from PIL import Image

from dist_plm.config import ViewsConfig
from dist_plm.data.shard_files import ADVICE
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError

View = Future[np.ndarray]
Cut = Callable[[Image.Image, int], np.ndarray]


def sweep_shards(
    store: Store, shards: Sequence[int], *, config: ViewsConfig, batch_size: int, workers: int, cut: Cut | None = None
) -> Generator[tuple[int, Iterator[torch.Tensor]], None, None]:
    """One view of each sample of some shards, in order.

    While the caller works on one batch, one thread reads on and `workers` threads decode, be it in another shard: two
    more batches at most.

    Args:
        store: The split.
        shards: Positions in `store.shards`.
        config: `size` and `resize` of the evaluation views.
        cut: An image and its id -> another view, uint8 [3, size, size]. Thread-safe.
        batch_size: Images in a batch; the last of a shard may hold fewer.
        workers: Decoding threads.

    Yields:
        Position of the shard, and its batches uint8 [b, 3, size, size]; those not taken before the next shard are lost.

    Raises:
        UserError: From the batches, where the shard is damaged, a sample is no image, or the number of samples is not
            the manifest's. The last shows only at the end, so keep nothing of a shard whose batches have not ended.
    """
    reading = _Reading(
        store, shards, cut or (lambda image, _: eval_view(image, config=config)), workers, views=2 * batch_size
    )
    try:
        for shard in shards:
            batches = reading.batches(batch_size)
            yield shard, batches
            deque(batches, maxlen=0)
    finally:
        reading.close()


class _Reading:
    """Views under way, in order, read and decoded by threads of its own; no more than `views` are held at once."""

    def __init__(self, store: Store, shards: Sequence[int], cut: Cut, workers: int, *, views: int) -> None:
        self._store, self._cut = store, cut
        # A shard ends with None. An error comes behind all that was read before it.
        self._found: SimpleQueue[View | Exception | None] = SimpleQueue()
        self._free, self._closed = Semaphore(views), Event()
        self._pool = ThreadPoolExecutor(workers + 1, thread_name_prefix="sweep")
        self._pool.submit(self._read, shards)

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """The batches of the next shard. An error ends the reading of all."""
        views: list[View] = []
        try:
            while (found := self._found.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                views.append(found)
                if len(views) == size:
                    yield self._joined(views)
            if views:
                yield self._joined(views)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Join the threads, and close what they read."""
        self._closed.set()
        self._free.release()
        self._pool.shutdown(cancel_futures=True)

    def _read(self, shards: Sequence[int]) -> None:
        try:
            for shard in shards:
                with closing(self._store.in_order(shard)) as samples:
                    for id, (name, item) in enumerate(samples, self._store.shards[shard].first_id):
                        self._free.acquire()
                        if self._closed.is_set():
                            return
                        view = self._pool.submit(_view, self._store, shard, name, item, id, self._cut)
                        self._found.put(view)
                self._found.put(None)
        except Exception as error:
            self._found.put(error)

    def _joined(self, views: list[View]) -> torch.Tensor:
        """A batch of the views; their list is empty afterwards."""
        # One wake-up a batch: waiting for each view in turn takes the GIL from the workers once an image.
        wait(views, return_when=FIRST_EXCEPTION)
        batch = torch.from_numpy(np.stack([view.result() for view in views]))
        self._free.release(len(views))
        views.clear()
        return batch


def _view(store: Store, shard_index: int, name: str, item: Any, id: int, cut: Cut) -> np.ndarray:
    try:
        return cut(store.decoded(item), id)
    except ValueError as error:
        shard = store.shards[shard_index]
        raise UserError(f"{store.place}/{shard.path.name}: sample '{name}': {error}; {ADVICE} {store.place}") from error

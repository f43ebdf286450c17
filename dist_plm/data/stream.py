"""Sequential reads of whole shards as batches of evaluation views, for embedding passes.

A batch never crosses a shard and depends on the shard only, so an embedding does not depend on the rank.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image

from dist_plm.config import ViewsConfig
from dist_plm.data.store import Store, broken_sample
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError

Item = TypeVar("Item")
Made = TypeVar("Made")
Cut = Callable[[Image.Image, int], np.ndarray]
_Sample = tuple[int, str, Any, int]  # position of a shard; name of an image, what the store's `decoded` takes, id


def sweep_shards(
    store: Store, shards: Sequence[int], *, config: ViewsConfig, batch_size: int, workers: int, cut: Cut | None = None
) -> Generator[tuple[int, Iterator[torch.Tensor]], None, None]:
    """One view of each sample of some shards, in order.

    While the caller works on a batch, one thread reads and `workers` threads decode up to two more batches, also
    across shards.

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
    samples = (_samples(store, shard) for shard in shards)
    view = partial(_view, store, cut or (lambda image, _: eval_view(image, config=config)))
    ahead = Ahead(samples, view, workers, most=2 * batch_size)
    try:
        for shard in shards:
            batches = (torch.from_numpy(np.stack(views)) for views in ahead.batches(batch_size))
            yield shard, batches
            deque(batches, maxlen=0)
    finally:
        ahead.close()


class Ahead(Generic[Item, Made]):
    """Ordered parallel map with prefetching: results of `make` over items, computed by threads ahead of the caller.

    Args:
        groups: Groups of items; one thread iterates over them, ahead of the caller.
        make: Called by `workers` threads concurrently.
        workers: Number of threads.
        most: Upper bound of pending and unread results.
    """

    def __init__(
        self,
        groups: Iterable[Generator[Item, None, None]],
        make: Callable[[Item], Made],
        workers: int,
        *,
        most: int,
    ) -> None:
        self._make = make
        # None marks the end of a group. An error follows all items before it.
        self._found: SimpleQueue[Future[Made] | Exception | None] = SimpleQueue()
        self._free, self._closed = Semaphore(most), Event()
        self._pool = ThreadPoolExecutor(workers + 1, thread_name_prefix="sweep")
        self._pool.submit(self._draw, groups)

    def batches(self, size: int) -> Iterator[list[Made]]:
        """The results of the next group in batches of `size`, the last may be smaller. An error ends all groups."""
        pending: list[Future[Made]] = []
        try:
            while (item := self._found.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                pending.append(item)
                if len(pending) == size:
                    yield self._joined(pending)
            if pending:
                yield self._joined(pending)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Join the threads, and close the current group."""
        self._closed.set()
        self._free.release()
        self._pool.shutdown(cancel_futures=True)

    def _draw(self, groups: Iterable[Generator[Item, None, None]]) -> None:
        try:
            for group in groups:
                with closing(group):
                    for item in group:
                        self._free.acquire()
                        if self._closed.is_set():
                            return
                        self._found.put(self._pool.submit(self._make, item))
                self._found.put(None)
        except Exception as error:
            self._found.put(error)

    def _joined(self, pending: list[Future[Made]]) -> list[Made]:
        """The results of `pending`, which is empty afterwards."""
        # Wait once per batch: a wait per image takes the GIL from the workers each time.
        wait(pending, return_when=FIRST_EXCEPTION)
        made = [future.result() for future in pending]
        self._free.release(len(pending))
        pending.clear()
        return made


def _samples(store: Store, shard: int) -> Generator[_Sample, None, None]:
    with closing(store.in_order(shard)) as samples:
        for id, (name, item) in enumerate(samples, store.shards[shard].first_id):
            yield shard, name, item, id


def _view(store: Store, cut: Cut, sample: _Sample) -> np.ndarray:
    shard, name, item, id = sample
    try:
        return cut(store.decoded(item), id)
    except ValueError as error:
        raise UserError(broken_sample(store, shard, name, error)) from error

"""Prefetcher of remote images: a thread fills the cache in the order of the plan, ahead of the steps."""

import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from dist_plm.data.remote.cache import NEVER, ImageCache
from dist_plm.data.store import Prefetcher
from dist_plm.errors import RunFailure

CHUNK = 64  # images per request batch
CHUNK_BYTES = 1 << 28  # and their total size, unless it is a single one
WINDOW = 8  # an eighth of the cache is prefetched; more would evict images of earlier epochs that later steps need


class RemotePrefetcher(Prefetcher):
    """Fetches this rank's part of the images of `rows` in a thread.

    All ranks of the node read the cache: together they fetch each image of the node's plan once, except images needed
    before their rank has fetched them. Failures are ignored here: the reader of the image retries and reports them.

    Args:
        cache: The cache to fill.
        rows: int64 [steps, b], what the node reads in each step.
        sizes: Bytes of an image by id.
        fetch: ids -> verified bytes.
    """

    def __init__(
        self, cache: ImageCache, rows: np.ndarray, sizes: np.ndarray, fetch: Callable[[list[int]], list[bytes]]
    ) -> None:
        self._cache, self._fetch = cache, fetch
        steps, columns = np.nonzero(rows % cache.parts == cache.part)
        self._ids, self._steps = rows[steps, columns], steps
        self._next = next_uses(self._ids)
        self._bytes = np.concatenate([[0], np.cumsum(sizes[self._ids], dtype=np.int64)])
        self._step = self._read = self._fetched = self._there = 0
        self._turn, self._closed = threading.Condition(), False
        cache.expect(self._ids, np.arange(len(self._ids)))
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def advance(self) -> None:
        """Mark one more step as read."""
        with self._turn:
            self._step += 1
            end = int(np.searchsorted(self._steps, self._step))
            for position in range(self._read, end):
                self._cache.used(int(self._ids[position]), int(self._next[position]))
            self._read = end
            self._turn.notify_all()

    def ready(self, step: int, wait: bool) -> bool:
        """Whether this rank's part of a step is cached, or has failed; `wait` blocks until then."""
        end = int(np.searchsorted(self._steps, step, side="right"))
        with self._turn:
            while wait and self._there < end and self._thread.is_alive():
                self._turn.wait(1.0)
            return self._there >= end or not self._thread.is_alive()

    def close(self) -> None:
        """Join the thread, after its current request."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while chunk := self._chunk():
                with suppress(RunFailure):
                    for position, data in zip(chunk, self._fetch([int(self._ids[at]) for at in chunk]), strict=True):
                        self._cache.put(int(self._ids[position]), data, position)
        except Exception:  # the reader will raise it
            return

    def _chunk(self) -> list[int]:
        """Positions of the next reads that are not cached; blocks until there are some, [] at the end."""
        with self._turn:
            while not self._closed:
                self._fetched = max(self._fetched, self._read)
                self._there = self._fetched
                self._turn.notify_all()
                if chunk := self._missing(self._end()):
                    return list(chunk.values())
                if self._fetched == len(self._ids):
                    return []
                self._turn.wait()
            return []

    def _end(self) -> int:
        """Position up to which to fetch: the next step and the window."""
        reach = self._bytes[self._read] + self._cache.limit // WINDOW
        step = int(np.searchsorted(self._steps, self._step, side="right"))
        return max(step, int(np.searchsorted(self._bytes, reach, side="right")) - 1)

    def _missing(self, end: int) -> dict[int, int]:
        """Up to CHUNK uncached images before position `end`: {id: position}."""
        chunk: dict[int, int] = {}
        first = self._fetched
        while self._fetched < end and len(chunk) < CHUNK:
            if chunk and self._bytes[self._fetched + 1] - self._bytes[first] > CHUNK_BYTES:
                break
            id = int(self._ids[self._fetched])
            if id not in self._cache:
                chunk.setdefault(id, self._fetched)
            self._fetched += 1
        return chunk


def next_uses(ids: np.ndarray) -> np.ndarray:
    """For each position of `ids` the next one with the same id, or NEVER."""
    order = np.argsort(ids, kind="stable")
    following = np.full(len(ids), NEVER, dtype=np.int64)
    same = ids[order][1:] == ids[order][:-1]
    following[order[:-1][same]] = order[1:][same]
    return following

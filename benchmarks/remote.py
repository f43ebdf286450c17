"""`python benchmarks/remote.py URL [SPLIT]`: rate, requests and CPU time of reading a data set from a server.

What a plan reads goes through the prefetching thread into an empty cache; a sweep reads stretches. Nothing is decoded.
"""

import sys
import tempfile
import time

import numpy as np

from dist_plm.config import DataConfig
from dist_plm.data.remote.remote_store import RemoteStore

BATCH = 200


def main(url: str, split: str) -> None:
    """Print a line for reads in the order of a plan, one for the same again, and one for a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        store = RemoteStore(DataConfig(shards=url, cache_dir=folder), split)
        images = len(store) // BATCH * BATCH
        rows = np.random.default_rng(0).permutation(len(store))[:images].reshape(-1, BATCH)
        print(f"{len(store):,} images in {len(store.shards):,} shards, {store.offsets['size'].mean():,.0f} bytes each")
        for name in ("as planned, empty cache", "as planned, full cache"):
            with measured(name, store, images), store.prefetch(rows) as prefetcher:
                for step, row in enumerate(rows):
                    prefetcher.ready(step, True)
                    for id in row.tolist():
                        store.read(id)
                    prefetcher.advance()
    with tempfile.TemporaryDirectory() as folder:
        store = RemoteStore(DataConfig(shards=url, cache_dir=folder), split)
        with measured("sweep", store, len(store)):
            for shard in range(len(store.shards)):
                for _ in store.in_order(shard):
                    pass


class measured:
    """Prints what reading `images` took."""

    def __init__(self, name: str, store: RemoteStore, images: int) -> None:
        self.name, self.store, self.images = name, store, images

    def __enter__(self) -> None:
        self.before = time.perf_counter(), time.process_time(), self.store.remote.requests, self.store.remote.bytes

    def __exit__(self, *_: object) -> None:
        remote = self.store.remote
        now = time.perf_counter(), time.process_time(), remote.requests, remote.bytes
        wall, cpu, requests, received = (b - a for a, b in zip(self.before, now, strict=True))
        print(
            f"{self.name:24} {self.images / wall:9,.0f} images/s  {1e3 * cpu / self.images:6.3f} ms of CPU an image  "
            f"{requests:6,} requests  {received / 1e6:8.1f} MB"
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "train")

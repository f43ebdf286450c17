"""`python benchmarks/reads.py SHARDS [SPLIT]`: random reads by a bare pread loop, a sweep by stock webdataset.

In turns, the best of five, nothing decoded: CPU time of pages that are in memory, and wall time when they are not.
"""

import os
import sys
import time
from collections.abc import Callable

import numpy as np
import webdataset

from dist_plm.data.store import Store

READS, SHARDS, REPEATS = 20_000, 10, 5  # random images; shards swept at most; repeats


def bare(store: Store, ids: list[int]) -> int:
    """Bytes read by pread from files that stay open, where the table says."""
    files, total = [os.open(shard.path, os.O_RDONLY) for shard in store.shards], 0
    for id in ids:
        shard, offset, size = store.offsets[id].item()
        total += len(os.pread(files[shard], size, offset))
    for file in files:
        os.close(file)
    return total


def random(store: Store, ids: list[int]) -> int:
    """The same through the store."""
    return sum(len(store.read(id)) for id in ids)


def stock(store: Store) -> int:
    """Bytes of the images, as webdataset hands them out."""
    urls = [str(shard.path) for shard in store.shards[:SHARDS]]
    return sum(len(sample["jpg"]) for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))


def swept(store: Store) -> int:
    """The same as a sweep takes them."""
    return sum(len(data) for number in range(len(store.shards[:SHARDS])) for _, data in store.in_order(number))


def seconds(work: Callable[[], int], store: Store, cold: bool) -> tuple[float, int]:
    """Time of some work, and what it returned."""
    for shard in store.shards if cold else ():
        file = os.open(shard.path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    clock = time.perf_counter if cold else time.process_time
    started = clock()
    result = work()
    return clock() - started, result


def compare(
    name: str, ours: Callable[[], int], theirs: Callable[[], int], store: Store, count: int, *, cold: bool = False
) -> None:
    """Print both times for one of `count` images, and the ratio of the rates."""
    times = []
    for _ in range(REPEATS):
        (mine, a), (other, b) = seconds(ours, store, cold), seconds(theirs, store, cold)
        assert a == b
        times.append((mine, other))
    mine, other = (min(column) for column in zip(*times, strict=True))
    print(f"{name}: {1e6 * mine / count:.2f} us an image against {1e6 * other / count:.2f}: {other / mine:.2f}")


if __name__ == "__main__":
    store = Store(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "train")
    ids = np.random.default_rng(0).integers(0, len(store), READS).tolist()
    print(f"{len(store):,} images in {len(store.shards):,} shards, {store.offsets['size'].mean():,.0f} bytes each")
    for cold in (False, True):
        where = "from the disk" if cold else "in memory"
        compare(f"random reads / bare pread loop, {where}", lambda: random(store, ids), lambda: bare(store, ids), store,
                READS, cold=cold)  # fmt: skip
        compare(f"sweep / stock webdataset, {where}", lambda: swept(store), lambda: stock(store), store,
                sum(shard.samples for shard in store.shards[:SHARDS]), cold=cold)  # fmt: skip

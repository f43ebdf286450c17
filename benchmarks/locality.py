"""`python benchmarks/locality.py`: what a node's cache spares, with and without locality and shards in cluster order.

A simulation of ids: 1,000 shards, clusters of 50 images, 8 nodes, groups of a seed and its nearest. The placing of
groups and the decisions of the cache are those of the project; only the bytes are not there.
"""

import argparse
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import cast

import numpy as np

from dist_plm.data.format import OFFSET_DTYPE
from dist_plm.data.locality import near_shards
from dist_plm.data.plan import rank_rows
from dist_plm.data.remote.cache import ImageCache
from dist_plm.data.remote.prefetch import next_uses
from dist_plm.data.store import Store
from dist_plm.distributed.shares import Shares

SHARDS, NODES, GROUPS, GROUP_SIZE = 1_000, 8, 400, 10
BYTES = 100_000  # of an image
CLUSTER, NEAR = 50, 0.9  # images of a cluster; share of a group's images that are of its seed's
CACHES = (0.02, 0.1, 0.25)  # of all images, on one node


class Counted(ImageCache):
    """A cache of nothing: its decisions alone."""

    def __init__(self, images: int) -> None:
        self.limit, self.part, self.parts, self.size = images, 0, 1, 0
        self._folder, self._held, self._farthest, self._lock = Path("/nonexistent"), {}, [], Lock()

    def _found(self) -> list[tuple[int, int]]:
        return []

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        pass


def epoch_plan(draw: np.random.Generator, clusters: np.ndarray) -> np.ndarray:
    """[steps, GROUPS, GROUP_SIZE]: seeds at random, of each group a share NEAR from the seed's cluster."""
    images = len(clusters)
    order = np.argsort(clusters, kind="stable")
    first = np.searchsorted(clusters[order], clusters)
    steps = images // (GROUPS * GROUP_SIZE)
    seeds = draw.permutation(images)[: steps * GROUPS]
    members = order[first[seeds][:, None] + draw.integers(0, CLUSTER, (len(seeds), GROUP_SIZE))]
    strangers = draw.random(members.shape) >= NEAR
    members[strangers] = draw.integers(0, images, int(strangers.sum()))
    members[:, 0] = seeds
    return members.reshape(steps, GROUPS, GROUP_SIZE)


def hit_rate(plans: list[np.ndarray], size: int) -> tuple[float, float]:
    """Share of the reads that a node's cache of `size` images answers after the first epoch, and images fetched."""
    cache, hits, reads, fetched = Counted(size), 0, 0, 0
    for epoch, rows in enumerate(plans):
        ids = rows.ravel()
        following = next_uses(ids)
        cache.expect(ids, np.arange(len(ids)))
        for id, later in zip(ids.tolist(), following.tolist(), strict=True):
            hit = id in cache
            if epoch:
                hits, reads, fetched = hits + hit, reads + 1, fetched + (not hit)
            if not hit:
                cache.put(id, b"1", later)
            cache.used(id, later)
    return hits / reads, fetched / (len(plans) - 1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images-per-shard", type=int, default=400)
    options.add_argument("--epochs", type=int, default=3)
    chosen = options.parse_args()
    images = SHARDS * chosen.images_per_shard
    draw, nodes = np.random.default_rng(0), Shares.even(GROUPS * GROUP_SIZE, NODES)
    layouts = {"any order": draw.permutation(images) // CLUSTER, "cluster order": np.arange(images) // CLUSTER}
    offsets = np.zeros(images, OFFSET_DTYPE)
    offsets["shard"] = np.arange(images) // chosen.images_per_shard
    store = cast(Store, SimpleNamespace(offsets=offsets, shards=range(SHARDS)))
    print(f"{images:,} images, {SHARDS:,} shards, {NODES} nodes, batches of {GROUPS} x {GROUP_SIZE}")
    print(f"{'shards in':14} {'locality':9} " + "".join(f"{f'cache {share:.0%}':>24}" for share in CACHES))
    for name, clusters in layouts.items():
        plans = [epoch_plan(np.random.default_rng([1, epoch]), clusters) for epoch in range(chosen.epochs)]
        for locality in (False, True):
            placed = [near_shards(plan, store, nodes) if locality else plan for plan in plans]
            cells = []
            for share in CACHES:
                rows = [rank_rows(plan, nodes, 0) for plan in placed]
                rate, fetched = hit_rate(rows, int(share * images))
                cells.append(f"{rate:9.1%} {fetched * BYTES / 1e9:7.1f} GB/node")
            print(f"{name:14} {'on' if locality else 'off':9} " + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

"""Estimated search time, from the measured time of a comparison on this machine."""

import time
from dataclasses import dataclass

import torch

from dist_plm.config.index import IndexConfig
from dist_plm.index.flat import QUERY_BLOCK, nearest
from dist_plm.index.ivf import LEAST_TRAINING_ROWS, TRAINING_ROWS
from dist_plm.index.placement import Placement
from dist_plm.index.proposals import Backend

PROBED_ROWS = 32_768
ITERATIONS = 10  # of FAISS's k-means over the cells
SCAN = 6.0  # cost of a comparison by code over one in a matrix product; measured: benchmarks/index_scale.md


@dataclass(frozen=True)
class Cost:
    """Seconds of a refresh on each of W ranks.

    Attributes:
        build: Training and filling the lists; 0 for exact search.
        search: All seeds.
        judge: Exact search of the sample for measuring recall.
    """

    build: float
    search: float
    judge: float


def comparison_seconds(dim: int, k: int, backend: Backend, device: torch.device) -> float:
    """Seconds of a rank for one seed and one image in exact search of the k nearest, measured in less than a second."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(PROBED_ROWS, dim, generator=random).to(device)
    took = []
    for _ in range(2):
        started = time.perf_counter()
        nearest(rows[:QUERY_BLOCK], rows, min(k, PROBED_ROWS - 1), backend=backend, device=device)
        took.append(time.perf_counter() - started)
    return min(took) / QUERY_BLOCK / PROBED_ROWS


def refresh_cost(
    config: IndexConfig, placement: Placement, *, count: int, seeds: int, world_size: int, comparison: float
) -> Cost:
    """The cost of an index over `count` images and the search of `seeds`.

    Assumes cells of equal size and ranks of equal speed.
    """
    if config.exact:
        return Cost(0.0, seeds * count * comparison / world_size, 0.0)
    cells, nprobe = placement.cells, min(config.nprobe, placement.cells)
    sample = min(count, max(TRAINING_ROWS * cells, LEAST_TRAINING_ROWS))
    added = count / world_size if placement.sharded else count
    compared = cells * (world_size if placement.sharded else 1) + SCAN * nprobe / cells * count
    return Cost(
        (ITERATIONS * sample + added) * cells * comparison,
        seeds * compared * comparison / world_size,
        config.recall_sample * count * comparison / world_size,
    )

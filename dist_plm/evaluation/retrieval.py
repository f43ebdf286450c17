"""Retrieval metrics: recall@K and MAP@R, as sums over queries that add up over ranks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.index.flat import SCANNED, Exact
from dist_plm.index.proposals import search_by_torch
from dist_plm.index.ranking import Lattice
from dist_plm.index.rows import HeldRows

QUERY_BLOCK = 1_024


@dataclass(frozen=True)
class Counts:
    """Plain sums over queries; those of disjoint sets of queries add up.

    Args:
        queries: Queries that count: labelled, with at least one positive in the gallery.
        dropped: The other queries.
        hits: For every K, queries with a positive among their K nearest.
        precision: Sum of MAP@R over the queries that count; None if not requested.
        first: int8 of every query, in order: 1 for a positive among its smallest K nearest, 0 for none, -1 dropped.
    """

    queries: int
    dropped: int
    hits: dict[int, int]
    precision: float | None
    first: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8), compare=False)

    def __add__(self, other: "Counts") -> "Counts":
        if self.hits.keys() != other.hits.keys() or (self.precision is None) != (other.precision is None):
            raise ValueError("counts of different metrics do not add up")
        precision = None if self.precision is None or other.precision is None else self.precision + other.precision
        hits = {k: count + other.hits[k] for k, count in self.hits.items()}
        first = np.concatenate([self.first, other.first])
        return Counts(self.queries + other.queries, self.dropped + other.dropped, hits, precision, first)

    def metrics(self) -> dict[str, Any]:
        """{"recall": {K: share}, "map_at_r": share or None, "queries", "dropped"}; ValueError where no query counts."""
        if self.queries == 0:
            raise ValueError(f"no query has a positive in the gallery ({self.dropped} dropped)")
        return {
            "recall": {k: count / self.queries for k, count in self.hits.items()},
            "map_at_r": None if self.precision is None else self.precision / self.queries,
            "queries": self.queries,
            "dropped": self.dropped,
        }


def recall_at_k(embeddings: Tensor, labels: Tensor, ks: Iterable[int]) -> dict[int, float]:
    """Share of queries with an item of their class among the K nearest, every row being a query against all others.

    Args:
        embeddings: [N, D] of any floating type, on any device with float64.
        labels: int [N]; -1 is unlabelled.
        ks: Values of K; a K beyond N - 1 reads as N - 1.

    Returns:
        {K: share in [0, 1]}. The query is removed by its index and ties go to the lower index. Queries without a
        positive are dropped; ValueError where that leaves none.
    """
    embeddings, labels = torch.as_tensor(embeddings), torch.as_tensor(labels)
    rows = torch.arange(len(embeddings))
    counts = retrieval_counts(embeddings, labels, embeddings, labels, ks, own_rows=rows, map_at_r=False)
    return counts.metrics()["recall"]


@torch.no_grad()
def retrieval_counts(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    ks: Iterable[int],
    *,
    own_rows: Tensor | None,
    map_at_r: bool = True,
) -> Counts:
    """Counts of queries against a gallery; with a share of the queries on each rank, the sum over ranks is the whole.

    Args:
        queries: [Q, D]; Q may be 0.
        query_labels: int [Q]; -1 is unlabelled and dropped.
        gallery: [N, D], whole on every rank.
        gallery_labels: int [N]; -1 is unlabelled and never a positive.
        ks: Values of K; one beyond the gallery reads as all of it.
        own_rows: int64 [Q], the gallery row that is the query itself; None where the gallery is another set of images.
        map_at_r: Also MAP@R = mean over queries of 1/R sum_{i <= R} precision(i) relevant(i), R the positives of the
            query in the gallery without itself.
    """
    ks = [int(k) for k in ks]
    if not ks or min(ks) < 1:
        raise ValueError(f"K of recall@K must be a positive integer, not {ks}")
    _check_shapes(queries, query_labels, gallery, gallery_labels, own_rows)
    device = gallery.device
    query_labels, gallery_labels = query_labels.to(device).long(), gallery_labels.to(device).long()
    query_rows = None if own_rows is None else own_rows.to(device)
    positives = _positives(query_labels, gallery_labels, query_rows)
    counted = (positives > 0).nonzero().squeeze(1)
    hits, precision = dict.fromkeys(ks, 0), 0.0
    first = np.full(len(queries), -1, dtype=np.int8)
    if not len(counted):
        return Counts(0, len(queries), hits, precision if map_at_r else None, first)
    lattice, held = Lattice.around(gallery, queries.to(device)), HeldRows(gallery)
    index = Exact(held, lattice, search_by_torch(lattice, held, copy=False))
    for rows in counted.split(QUERY_BLOCK):
        depth = max(*ks, int(positives[rows].max())) if map_at_r else max(ks)
        depth = min(depth, len(gallery) - (query_rows is not None))
        block = queries[rows.to(queries.device)].to(device)
        find = index.search if SCANNED * depth <= len(gallery) else index.scan  # the same keys
        keys = find(block, None if query_rows is None else query_rows[rows], depth)
        relevant = gallery_labels[lattice.ids(keys)] == query_labels[rows, None]
        for k in hits:
            hits[k] += int(relevant[:, :k].any(1).sum())
        first[rows.cpu().numpy()] = relevant[:, : min(ks)].any(1).cpu().numpy()
        if map_at_r:
            precision += float(average_precision(relevant, positives[rows]).sum())
    return Counts(len(counted), len(queries) - len(counted), hits, precision if map_at_r else None, first)


def _positives(query_labels: Tensor, gallery_labels: Tensor, query_rows: Tensor | None) -> Tensor:
    """Gallery rows of every query's class without the query itself, int64 [Q]; 0 for unlabelled queries."""
    labels = gallery_labels.sort().values
    count = torch.searchsorted(labels, query_labels, right=True) - torch.searchsorted(labels, query_labels)
    if query_rows is not None:
        count = count - (gallery_labels[query_rows] == query_labels).long()
    return count.masked_fill(query_labels < 0, 0)


def average_precision(relevant: Tensor, positives: Tensor) -> Tensor:
    """MAP@R of every query, float64 [b], from relevance by rank [b, depth >= R] and R [b]."""
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    precision = relevant.cumsum(1).double() / rank
    return (precision * (relevant & (rank <= positives[:, None]))).sum(1) / positives


def _check_shapes(
    queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, own_rows: Tensor | None
) -> None:
    own_fits = own_rows is None or len(own_rows) == len(queries)
    labels_fit = len(query_labels) == len(queries) and len(gallery_labels) == len(gallery)
    if not (own_fits and labels_fit and queries.shape[1:] == gallery.shape[1:]):
        raise ValueError(
            f"queries {tuple(queries.shape)} with {len(query_labels)} labels do not fit "
            f"a gallery {tuple(gallery.shape)} with {len(gallery_labels)} labels"
        )

"""Retrieval results: nearest neighbours of queries, worst classes, and confused classes."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dist_plm.data.opening import labels_as
from dist_plm.index.flat import Backend, nearest
from dist_plm.report.test_split import EmbeddedSplit

MOST_QUERIES = 10_000  # drawn at random beyond that
NEIGHBOURS = 8


@dataclass(frozen=True)
class Retrieved:
    """Neighbours of queries.

    Attributes:
        queries, gallery: Of one split, or of two (In-Shop).
        rows: int64 [Q], rows of the queries.
        neighbours: int64 [Q, K], rows of the gallery, nearest first, the query left out.
    """

    queries: EmbeddedSplit
    gallery: EmbeddedSplit
    rows: np.ndarray
    neighbours: np.ndarray

    @cached_property
    def right(self) -> np.ndarray:
        """bool [Q, K]: whether a neighbour is of the query's class."""
        query_labels = self.queries.labels[self.rows][:, None]
        return (labels_as(self.queries.store, self.gallery.store)[self.neighbours] == query_labels) & (
            query_labels >= 0
        )

    @property
    def labelled(self) -> bool:
        return bool((self.queries.labels[self.rows] >= 0).any())

    def worst_classes(self) -> list[tuple[int, float]]:
        """(class, recall@1) in ascending order of recall, then in that of the classes."""
        labels, right = self.queries.labels[self.rows], self.right[:, 0]
        classes = np.unique(labels[labels >= 0])
        return sorted(
            ((int(c), float(right[labels == c].mean())) for c in classes), key=lambda pair: (pair[1], pair[0])
        )

    def most_confused(self) -> list[tuple[int, int, int, float]]:
        """(class, class of the gallery, queries, share): nearest neighbours of another class, largest share first."""
        labels = self.queries.labels[self.rows]
        wrong = ~self.right[:, 0] & (labels >= 0)
        others = self.gallery.labels[self.neighbours[:, 0]]
        pairs = Counter(zip(labels[wrong].tolist(), others[wrong].tolist(), strict=True))
        counts = Counter(labels.tolist())
        table = [(a, b, count, count / counts[a]) for (a, b), count in pairs.items() if b >= 0]
        return sorted(table, key=lambda row: (-row[3], -row[2], row[:2]))

    def of_class(self, label: int, most: int) -> np.ndarray:
        """Positions of queries of a class, evenly from the fewest right neighbours to the most."""
        positions = np.flatnonzero(self.queries.labels[self.rows] == label)
        order = positions[np.argsort(self.right[positions].sum(1), kind="stable")]
        return order[np.unique(np.linspace(0, len(order) - 1, most).round().astype(int))]


def retrieve(queries: EmbeddedSplit, gallery: EmbeddedSplit, *, seed: int, backend: Backend) -> Retrieved:
    """Search the queries' neighbours in the gallery, or among themselves."""
    rows = np.arange(len(queries.store))
    if len(rows) > MOST_QUERIES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_QUERIES, replace=False))
    alone = gallery is queries
    ids, _ = nearest(
        queries.vectors[rows],
        gallery.vectors,
        min(NEIGHBOURS, len(gallery.store) - alone),
        exclude=rows if alone else None,
        backend=backend,
    )
    return Retrieved(queries, gallery, rows, ids)

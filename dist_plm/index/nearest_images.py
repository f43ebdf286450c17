"""The k nearest training images of every training image, as the momentum encoder embedded them at a refresh."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.global_index import GlobalIndex

SEARCHED = 65_536  # images whose neighbours are searched, and held, at once


@dataclass(frozen=True)
class NearestImages:
    """A table of neighbours beside the embeddings that it was searched in; both are memory-mapped.

    Args:
        embeddings: [n, D].
        table: int64 [n, k], nearest first, by (distance, id), without the image itself.
    """

    embeddings: Embeddings
    table: np.ndarray

    def around(self, ids: np.ndarray) -> np.ndarray:
        """Embeddings of the k nearest images of `ids`, int64 [b] -> float32 [b, k, D]."""
        near = self.table[ids]
        rows = self.embeddings.take(near.ravel()).astype(np.float32, copy=False)
        return rows.reshape(*near.shape, self.embeddings.dim)


def search_all(index: GlobalIndex, n: int, k: int) -> Iterator[np.ndarray]:
    """The table of all n images, int64 [some, k] at a time. A collective."""
    for low in range(0, n, SEARCHED):
        yield index.neighbours(np.arange(low, min(low + SEARCHED, n)), k)

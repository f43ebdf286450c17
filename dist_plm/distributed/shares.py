"""Partitioning over ranks: consecutive rows of a global batch, and load balancing of tasks of known size."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from dist_plm.config import Config


@dataclass(frozen=True)
class Shares:
    """Partition of the rows of a global batch into consecutive blocks, in rank order.

    Args:
        sizes: Rows of each rank.
    """

    sizes: tuple[int, ...]

    @classmethod
    def even(cls, total: int, ranks: int) -> "Shares":
        """As even as possible: the first `total % ranks` ranks have one row more (13 13 13 13 12 12 12 12 of 100)."""
        size, more = divmod(total, ranks)
        return cls(more * (size + 1,) + (ranks - more) * (size,))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each rank, then the total."""
        return tuple(accumulate(self.sizes, initial=0))

    @property
    def total(self) -> int:
        return self.offsets[-1]

    @property
    def largest(self) -> int:
        return max(self.sizes)

    @property
    def equal(self) -> bool:
        """Whether all ranks hold the same number of rows."""
        return min(self.sizes) == self.largest

    @property
    def imbalance(self) -> float:
        """Largest share over the mean share: a step waits for the largest."""
        return self.largest * len(self.sizes) / self.total

    def rows(self, rank: int) -> slice:
        """The rows of a rank."""
        return slice(self.offsets[rank], self.offsets[rank + 1])

    def times(self, count: int) -> "Shares":
        """The same partition with `count` rows in place of each row, such as the views of an image."""
        return Shares(tuple(count * size for size in self.sizes))

    def joined(self, parts: int) -> "Shares":
        """Consecutive shares merged into `parts` of about the same number of ranks, such as the ranks of a node."""
        ends = self.offsets
        firsts = Shares.even(len(self.sizes), parts).offsets
        return Shares(tuple(ends[last] - ends[first] for first, last in pairwise(firsts)))


def batch_shares(config: Config, ranks: int) -> Shares:
    """Images of a global batch on each rank.

    Any number of ranks up to that of the images. Strategy `reproducible` assigns whole lanes to a rank, which limits
    the number of ranks to that of the lanes.
    """
    if config.runtime.strategy == "reproducible":
        return lanes(config).joined(ranks)
    return Shares.even(config.batch.images, ranks)


def lanes(config: Config) -> Shares:
    """Images of each lane (micro-batch), independent of the world size; at most one lane per image.

    Lanes differ by at most one image, and the larger ones are interleaved, so that ranks with the same number of lanes
    also differ by at most one image.
    """
    images = config.batch.images
    count = min(config.runtime.lanes, images)
    return Shares(tuple(last - first for first, last in pairwise(images * i // count for i in range(count + 1))))


def balanced(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices into `sizes` for each of `parts`, ascending: greedy assignment, largest first, to the smallest part.

    The longest-processing-time rule (Graham 1969): the largest part is at most 4/3 of the optimum. Ties go to the
    first part, so that all ranks compute the same assignment without communication.
    """
    loads = [(0, part) for part in range(parts)]
    shares: list[list[int]] = [[] for _ in range(parts)]
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        load, part = heapq.heappop(loads)
        shares[part].append(position)
        heapq.heappush(loads, (load + sizes[position], part))
    return [sorted(share) for share in shares]

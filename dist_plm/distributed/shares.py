"""Who does what: consecutive rows of a global batch on each rank, and work of known sizes in balanced parts."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from dist_plm.config import Config


@dataclass(frozen=True)
class Shares:
    """How the rows of a global batch lie on the ranks: consecutive blocks, in rank order.

    Args:
        sizes: Rows of each rank.
    """

    sizes: tuple[int, ...]

    @classmethod
    def even(cls, total: int, ranks: int) -> "Shares":
        """As equal as possible: the first total mod ranks ranks hold one row more (13 13 13 13 12 12 12 12 of 100)."""
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
        """The same with `count` rows in place of each, such as the views of an image."""
        return Shares(tuple(count * size for size in self.sizes))

    def joined(self, parts: int) -> "Shares":
        """Consecutive shares merged into `parts`, as equal in number as possible: those of a node's ranks."""
        ends = self.offsets
        firsts = Shares.even(len(self.sizes), parts).offsets
        return Shares(tuple(ends[last] - ends[first] for first, last in pairwise(firsts)))


def batch_shares(config: Config, ranks: int) -> Shares:
    """Images of a global batch on each rank.

    Any number of ranks up to that of the images. Strategy `reproducible` gives whole lanes to a rank, and so takes no
    more ranks than lanes.
    """
    if config.runtime.strategy == "reproducible":
        return lanes(config).joined(ranks)
    return Shares.even(config.batch.images, ranks)


def lanes(config: Config) -> Shares:
    """Images of each of `runtime.lanes`, at most one lane an image, whatever the number of ranks.

    They differ by one at most, and larger ones are spread out: ranks with equally many lanes differ by one image too.
    """
    images = config.batch.images
    count = min(config.runtime.lanes, images)
    return Shares(tuple(last - first for first, last in pairwise(images * i // count for i in range(count + 1))))


def balanced(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Positions of `sizes` for each of `parts`, ascending: the largest first, each to whoever has least so far.

    The longest-processing-time rule (Graham 1969): the fullest part has at most 4/3 of the best possible. Ties go to
    the first, so that ranks that know the sizes agree without a word.
    """
    loads = [(0, part) for part in range(parts)]
    shares: list[list[int]] = [[] for _ in range(parts)]
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        load, part = heapq.heappop(loads)
        shares[part].append(position)
        heapq.heappush(loads, (load + sizes[position], part))
    return [sorted(share) for share in shares]

"""Work of known sizes, shared out so that all are done at about the same time."""

import heapq
from collections.abc import Sequence


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

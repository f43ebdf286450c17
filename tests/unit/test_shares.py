"""Shares of work against all ways to share it."""

import itertools

import numpy as np
import pytest

from dist_plm.distributed.shares import balanced


@pytest.mark.parametrize("seed", range(10))
def test_the_fullest_is_near_the_best_possible(seed):
    draw = np.random.default_rng(seed)
    sizes, parts = draw.integers(1, 30, 8).tolist(), int(draw.integers(2, 4))
    shares = balanced(sizes, parts)
    assert sorted(itertools.chain(*shares)) == list(range(8)) and all(share == sorted(share) for share in shares)
    fullest = max(sum(sizes[each] for each in share) for share in shares)
    ways = itertools.product(range(parts), repeat=8)
    best = min(max(np.bincount(way, weights=sizes, minlength=parts)) for way in ways)
    assert fullest <= (4 / 3 - 1 / (3 * parts)) * best + 1e-9


def test_one_large_shard_does_not_make_the_others_wait():
    """Round robin would give 0, 2 and 4 to one rank: 120 against 20."""
    assert balanced([100, 10, 10, 10, 10], 2) == [[0], [1, 2, 3, 4]]


def test_more_parts_than_work():
    assert balanced([5], 3) == [[0], [], []] and balanced([], 2) == [[], []]

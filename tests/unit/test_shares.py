"""Rows of a batch on the ranks, and shares of work against all ways to share it."""

import itertools
import re

import numpy as np
import pytest

from dist_plm.config import BatchConfig, Config, RuntimeConfig
from dist_plm.distributed.shares import Shares, balanced, batch_shares, lanes
from dist_plm.training.resources import share_rows


@pytest.mark.parametrize("total", [1, 2, 7, 20, 100])
def test_shares_differ_by_one_row_at_most(total):
    for ranks in range(1, total + 1):
        shares = Shares.even(total, ranks)
        assert sorted(shares.sizes, reverse=True) == list(shares.sizes) and shares.total == total
        assert min(shares.sizes) >= 1 and shares.largest - min(shares.sizes) <= 1
        assert [row for rank in range(ranks) for row in range(total)[shares.rows(rank)]] == list(range(total))
        assert shares.equal == (total % ranks == 0) and (shares.imbalance == 1) == shares.equal


def test_the_papers_batch_on_eight_ranks():
    shares = batch_shares(Config(batch=BatchConfig(groups=10, group_size=10)), 8)
    assert shares.sizes == (13, 13, 13, 13, 12, 12, 12, 12) and shares.imbalance == 13 / 12.5
    assert shares.times(2).offsets == (0, 26, 52, 78, 104, 128, 152, 176, 200)
    assert shares.joined(2).sizes == (52, 48) and shares.joined(3).sizes == (39, 37, 24)  # of 3 3 2 ranks


@pytest.mark.parametrize("images", [1, 7, 20, 100])
def test_no_rank_divides_a_lane(images):
    config = Config(batch=BatchConfig(groups=images, group_size=1), runtime=RuntimeConfig(strategy="reproducible"))
    cut = lanes(config)
    assert cut.total == images and len(cut.sizes) == min(8, images) and cut.largest - min(cut.sizes) <= 1
    for ranks in range(1, len(cut.sizes) + 1):
        shares = batch_shares(config, ranks)
        assert shares.total == images and min(shares.sizes) >= 1
        assert set(shares.offsets) <= set(cut.offsets)
        if len(cut.sizes) % ranks == 0:
            assert shares.largest - min(shares.sizes) <= 1


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


def test_the_plan_says_what_unequal_shares_cost():
    config = Config(batch=BatchConfig(groups=10, group_size=10))
    rows = dict(share_rows(config, 8))
    assert rows["shares"] == "13 13 13 13 12 12 12 12 images on 8 ranks"
    assert "13 / 12.5 = 1.04 times" in rows["unequal shares"]
    assert "equal with --batch.groups 12 (120 images)" in rows["unequal shares"]
    for ranks in range(1, 101):
        rows = dict(share_rows(config, ranks))
        found = re.search(r"--batch.groups (\d+) \((\d+) images\)", rows.get("unequal shares", ""))
        assert bool(found) == bool(100 % ranks)
        if found:
            groups, images = map(int, found.groups())
            assert groups * 10 == images and images % ranks == 0
            assert all((10 * other) % ranks for other in range(1, 100) if abs(other - 10) < abs(groups - 10))


def test_the_plan_says_how_lanes_divide_better():
    config = Config(batch=BatchConfig(groups=10, group_size=10), runtime=RuntimeConfig(strategy="reproducible"))
    row = dict(share_rows(config, 6))["unequal shares"]
    assert "25 / 16.67 = 1.5 times" in row and "--runtime.lanes 12," in row

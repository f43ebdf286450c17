"""Plans against a planner that walks the full list of neighbours of every image, and their stated properties."""

import hashlib
import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from dist_plm.config import BatchConfig
from dist_plm.data import plan
from dist_plm.data.plan import (
    coverage,
    make_plan,
    plan_blocks,
    random_plan,
    rank_rows,
)
from dist_plm.data.plan_file import load_plan, save_blocks, save_plan
from dist_plm.distributed.shares import Shares
from dist_plm.errors import UserError
from tests.settings import batch_of

SHAPES = [(1, 4), (3, 2), (4, 5), (7, 3), (5, 1), (2, 10)]


def neighbour_lists(n, seed, spread=1.0):
    """All other images of every image, nearest first, ties by id; `spread` 0 puts all images at one place."""
    points = spread * np.random.default_rng(seed).standard_normal((n, 2)).round(1)
    squared = ((points[:, None] - points[None]) ** 2).sum(2)
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1, kind="stable")[:, : n - 1]


def search_in(lists, calls=None):
    def neighbours(seeds, depth):
        assert depth <= lists.shape[1]
        if calls is not None:
            calls.append((len(seeds), depth))
        return lists[seeds, :depth]

    return neighbours


def brute_random(order, lists, steps, groups, size):
    plan = []
    for step in range(steps):
        seeds = [int(order[step * groups + g]) for g in range(groups)]
        batch = []
        for seed in seeds:
            free = [int(i) for i in lists[seed] if i not in seeds and all(i not in group for group in batch)]
            batch.append([seed, *free[: size - 1]])
        plan.append(batch)
    return np.array(plan)


def brute_disjoint(order, lists, steps, groups, size):
    left = [int(i) for i in order]
    plan = []
    while len(plan) < steps * groups:
        seed = left.pop(0)
        near = [int(i) for i in lists[seed][: 8 * size] if i in left][: size - 1]
        fill = [i for i in reversed(left) if i not in near][: size - 1 - len(near)]
        left = [i for i in left if i not in near + fill]
        plan.append([seed, *near, *fill])
    return np.array(plan).reshape(steps, groups, size)


def order_of(n, seed, epoch):
    """The seeds' permutation as a caller sees it: one batch of all images."""
    return random_plan(n, BatchConfig(groups=1, group_size=n), seed, epoch).ravel()


@pytest.mark.parametrize("spread", [1.0, 0.0])
@pytest.mark.parametrize("groups, size", SHAPES)
@pytest.mark.parametrize("cover, brute", [("random", brute_random), ("disjoint", brute_disjoint)])
def test_plan_is_that_of_the_full_walk(cover, brute, groups, size, spread):
    for seed in range(4):
        for n in (groups * size, groups * size + 1, 61, 100):
            lists = neighbour_lists(n, seed, spread)
            batch = BatchConfig(groups=groups, group_size=size, cover=cover)
            plan = make_plan(n, batch=batch, seed=seed, epoch=2, neighbours=search_in(lists))
            steps = n // (groups * size)
            assert plan.dtype == np.int64 and plan.shape == (steps, groups, size)
            if size > 1:
                assert (plan == brute(order_of(n, seed, 2), lists, steps, groups, size)).all()


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_random_cover_repeats_no_image_in_a_batch_and_no_seed_in_an_epoch(spread):
    lists = neighbour_lists(400, 0, spread)
    plan = make_plan(400, batch=batch_of(), seed=0, epoch=0, neighbours=search_in(lists))
    assert all(len(np.unique(step)) == 100 for step in plan)
    assert len(np.unique(plan[:, :, 0])) == 40
    assert coverage(plan, 400) == len({int(i) for i in plan.ravel()}) / 400


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_disjoint_cover_repeats_no_image_in_an_epoch(spread):
    lists = neighbour_lists(450, 0, spread)
    batch = batch_of(cover="disjoint")
    plan = make_plan(450, batch=batch, seed=0, epoch=0, neighbours=search_in(lists))
    assert plan.size == len(np.unique(plan)) == 400
    assert coverage(plan, 450) == 400 / 450


def test_only_steps_that_run_out_look_deeper():
    calls = []
    lists = neighbour_lists(3000, 1)
    batch = BatchConfig(groups=10, group_size=5)
    make_plan(3000, batch=batch, seed=1, epoch=0, neighbours=search_in(lists, calls))
    assert calls[0] == (600, 10)
    assert all(seeds < 600 and depth > 10 for seeds, depth in calls[1:])
    assert calls[-1][1] <= 49


def test_seed_and_epoch_decide_the_plan():
    lists = neighbour_lists(100, 0)

    def plan(seed, epoch):
        batch = BatchConfig(groups=5, group_size=4)
        return make_plan(100, batch=batch, seed=seed, epoch=epoch, neighbours=search_in(lists)).tobytes()

    assert plan(0, 0) == plan(0, 0)
    assert len({plan(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("size", [1, 4])
def test_short_epochs_share_a_pass_over_the_seeds(size):
    """50 steps in epochs of 12: four have seeds of their own, and the fifth begins another order."""
    batch, n = BatchConfig(groups=5, group_size=size, epoch_steps=12), 50 * 5 * size + 3
    near = search_in(neighbour_lists(n, 0))
    plans = [make_plan(n, batch=batch, seed=0, epoch=epoch, neighbours=near) for epoch in range(8)]
    assert all(plan.shape == (12, 5, size) for plan in plans)
    seeds = [[int(seed) for plan in part for seed in plan[:, :, 0].ravel()] for part in (plans[:4], plans[4:])]
    assert all(len(set(of_pass)) == len(of_pass) == 240 for of_pass in seeds)
    assert seeds[0] != seeds[1]


def test_an_epoch_is_never_longer_than_a_pass():
    batch, lists = BatchConfig(groups=5, group_size=4), neighbour_lists(103, 0)
    whole, *others = (
        make_plan(103, batch=replace(batch, epoch_steps=steps), seed=0, epoch=3, neighbours=search_in(lists))
        for steps in (0, 5, 9)
    )
    assert all((plan == whole).all() for plan in others) and len(whole) == 5


def test_short_epochs_of_random_batches_read_every_image_of_the_pass_once():
    batch = BatchConfig(groups=5, group_size=4, epoch_steps=12)
    read = np.concatenate([random_plan(1009, batch, 3, epoch).ravel() for epoch in range(4, 8)])
    assert len(np.unique(read)) == len(read) == 4 * 12 * 20


def test_random_plan_is_a_permutation():
    plan = random_plan(103, BatchConfig(groups=5, group_size=4), 3, 1)
    assert plan.shape == (5, 5, 4)
    assert len(np.unique(plan)) == 100 and plan.min() >= 0 and plan.max() < 103
    # Means of the 100 ids of 50 epochs: 51 +- 0.1 for uniform draws, since each leaves out only 3.
    means = [random_plan(103, BatchConfig(groups=5, group_size=4), 3, epoch).mean() for epoch in range(50)]
    assert abs(np.mean(means) - 51) < 0.5


@pytest.mark.parametrize("groups", [1, 6, 10])
def test_rows_of_the_ranks_join_to_the_plan(groups):
    plan = random_plan(groups * 3 * 4, BatchConfig(groups=groups, group_size=3), 0, 0)
    for world in range(1, 3 * groups + 1):
        shares = Shares.even(3 * groups, world)
        rows = [rank_rows(plan, shares, rank) for rank in range(world)]
        assert [each.shape for each in rows] == [(4, size) for size in shares.sizes]
        assert (np.concatenate(rows, axis=1) == plan.reshape(4, -1)).all()


def test_shares_of_another_batch_are_refused():
    plan = random_plan(60, BatchConfig(groups=6, group_size=2), 0, 0)
    with pytest.raises(ValueError, match="batches of 12 images"):
        rank_rows(plan, Shares.even(13, 4), 0)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(UserError, match="needs 100 images, the split has 99"):
        random_plan(99, batch_of(), 0, 0)


def test_a_search_that_repeats_itself_is_refused():
    with pytest.raises(ValueError, match="not 7 different images"):
        make_plan(
            40,
            batch=BatchConfig(groups=2, group_size=4),
            seed=0,
            epoch=0,
            neighbours=lambda seeds, depth: np.repeat(seeds[:, None], depth, axis=1),
        )


def test_a_saved_plan_comes_back_and_its_bytes_are_its_own(tmp_path):
    plan = random_plan(103, BatchConfig(groups=5, group_size=4), 0, 0)
    digest = save_plan(tmp_path / "a.npy", plan)
    assert digest == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert digest == save_plan(tmp_path / "b.npy", np.asfortranarray(plan))
    loaded = load_plan(tmp_path / "a.npy", digest)
    assert not loaded.flags.owndata and loaded.dtype.str == "<i8" and (loaded == plan).all()
    assert (np.load(io.BytesIO((tmp_path / "a.npy").read_bytes())) == plan).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "b.npy"]


def test_a_changed_or_missing_plan_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    digest = save_plan(path, random_plan(100, batch_of(), 0, 0))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="not the one that was saved"):
        load_plan(path, digest)
    path.unlink()
    with pytest.raises(UserError, match="cannot read the plan"):
        load_plan(path, digest)


@pytest.mark.parametrize("cover", ["random", "disjoint"])
@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_a_plan_in_blocks_is_the_plan_and_its_file(tmp_path, monkeypatch, cover, spread):
    lists, batch = neighbour_lists(500, 3, spread), BatchConfig(groups=3, group_size=5, cover=cover)
    arguments = {"batch": batch, "seed": 4, "epoch": 1, "neighbours": search_in(lists)}
    whole = make_plan(500, **arguments)
    digest = save_plan(tmp_path / "whole.npy", whole)
    np.save(tmp_path / "numpy.npy", whole)
    assert digest == hashlib.sha256((tmp_path / "numpy.npy").read_bytes()).hexdigest()
    for most in (1, 10, 37):
        monkeypatch.setattr(plan, "MOST_SEARCHED", most)
        monkeypatch.setattr(plan, "LEAST_SEARCHED", 2)
        blocks = list(plan_blocks(500, **arguments))
        assert len(blocks) >= 3 and all(block.shape[1:] == (3, 5) for block in blocks)
        assert (np.concatenate(blocks) == whole).all()
        assert save_blocks(tmp_path / "blocks.npy", whole.shape, iter(blocks)) == digest


@pytest.mark.parametrize("cover", ["random", "disjoint"])
def test_a_plan_in_blocks_holds_no_more_than_the_order_of_the_images(tmp_path, monkeypatch, cover):
    """The number of numbers in memory at once: arrays of numpy, that tracemalloc sees, and lists of ints."""
    n, batch = 100_000, batch_of(cover=cover)
    monkeypatch.setattr(plan, "MOST_SEARCHED", 50)

    def neighbours(seeds, depth):
        return (seeds[:, None] + np.arange(1, depth + 1)) % n

    tracemalloc.start()
    blocks = plan_blocks(n, batch=batch, seed=0, epoch=0, neighbours=neighbours)
    save_blocks(tmp_path / "plan.npy", (n // 100, 10, 10), blocks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 8 bytes an image for their order, and with `disjoint` 1 for what is taken; the plan itself would take 8 more.
    assert peak < 8 * n * (1.45 if cover == "disjoint" else 1.35), peak / n


def test_blocks_that_are_no_plan_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="entries"):
        save_blocks(tmp_path / "plan.npy", (4, 2, 5), iter([np.zeros((3, 2, 5), dtype=np.int64)]))
    assert not list(tmp_path.iterdir())

"""The cache against an exhaustive search for the fewest misses, and what is fetched ahead against the plan."""

import functools
from collections import Counter

import numpy as np
import pytest

from dist_plm.data.remote.cache import NEVER, ImageCache
from dist_plm.data.remote.prefetch import RemotePrefetcher, next_uses


def fewest_misses(uses: tuple[int, ...], room: int) -> int:
    """Over all choices of what to keep after each use."""

    @functools.cache
    def search(at: int, held: frozenset[int]) -> int:
        if at == len(uses):
            return 0
        missed = uses[at] not in held
        held |= {uses[at]}
        keep = [held] if len(held) <= room else [held - {each} for each in held]
        return missed + min(search(at + 1, each) for each in keep)

    return search(0, frozenset())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("room", [1, 2, 3])
def test_no_choice_misses_less(tmp_path, seed, room):
    uses = np.random.default_rng(seed).integers(0, 6, 14)
    cache, following, misses = ImageCache(tmp_path, 10 * room), next_uses(uses), 0
    cache.expect(uses, np.arange(len(uses)))
    for id, later in zip(uses.tolist(), following.tolist(), strict=True):
        if cache.get(id) is None:
            misses += 1
            cache.put(id, bytes([id]) * 10, later)
        cache.used(id, later)
        assert cache.size <= cache.limit
    assert misses == fewest_misses(tuple(uses.tolist()), room)


def test_the_next_use_is_the_next(tmp_path):
    assert next_uses(np.array([3, 1, 3, 3, 2, 1])).tolist() == [2, 5, 3, NEVER, NEVER, NEVER]


def test_the_bound_holds_for_bytes_and_over_runs(tmp_path):
    draw = np.random.default_rng(0)
    cache = ImageCache(tmp_path, 1_000)
    cache.expect(np.arange(0), np.arange(0))
    for id in range(60):
        cache.put(id, draw.bytes(int(draw.integers(1, 200))), 100 - id)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert 700 < cache.size == sum(sizes) <= 1_000
    smaller = ImageCache(tmp_path, 500)  # the same folder with another bound
    smaller.expect(np.arange(60), np.arange(60))
    kept = sorted(int(path.name) for path in tmp_path.rglob("*") if path.is_file())
    assert smaller.size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 500
    others = [id for id in range(60) if id not in kept]
    assert kept and all(smaller.get(id) is None for id in others)


def test_two_ranks_share_a_folder_and_each_bounds_its_own(tmp_path):
    caches = [ImageCache(tmp_path, 50, part, 2) for part in range(2)]
    for cache in caches:
        cache.expect(np.arange(20), np.arange(20))
        for id in range(cache.part, 20, 2):
            cache.put(id, b"0123456789", id)
    assert [cache.get(id) is not None for cache in caches for id in range(20)] == 2 * (10 * [True] + 10 * [False])


def prefetch_of(cache: ImageCache, rows: np.ndarray, fetched: list[int], size: int = 10) -> RemotePrefetcher:
    def fetch(ids: list[int]) -> list[bytes]:
        fetched.extend(ids)
        return [str(id).zfill(size).encode() for id in ids]

    return RemotePrefetcher(cache, rows, np.full(int(rows.max()) + 1, size), fetch)


def test_all_is_there_before_its_step_and_comes_once(tmp_path):
    rows, fetched = np.random.default_rng(1).integers(0, 500, (40, 20)), []
    prefetch = prefetch_of(ImageCache(tmp_path, 10**6), rows, fetched)
    for step, row in enumerate(rows):
        assert prefetch.ready(step, wait=True)
        assert all(prefetch._cache.get(id) == str(id).zfill(10).encode() for id in row.tolist())
        prefetch.advance()
    prefetch.close()
    assert Counter(fetched) == Counter(set(rows.ravel().tolist()))
    assert fetched == list(dict.fromkeys(rows.ravel().tolist()))  # in the order of the plan


def test_a_small_cache_looks_a_little_ahead_and_keeps_the_rest_of_the_last_epoch(tmp_path):
    """Half of the images fit; those kept from the last epoch are read, not pushed out by what is fetched ahead."""
    order, fetched = np.random.default_rng(2).permutation(400).reshape(40, 10), []
    for epoch in range(3):
        fetched.clear()
        prefetch = prefetch_of(ImageCache(tmp_path, 2_000), order if epoch % 2 else order[::-1], fetched)
        for step in range(40):
            assert prefetch.ready(step, wait=True)
            prefetch.advance()
        prefetch.close()
    assert 200 <= len(fetched) <= 200 + 2_000 // 10 // 8 + 20


def test_a_step_larger_than_the_window_does_not_wait_for_itself(tmp_path):
    rows = np.arange(300).reshape(3, 100)
    prefetch = prefetch_of(ImageCache(tmp_path, 50), rows, [])
    for step in range(3):
        assert prefetch.ready(step, wait=True)
        prefetch.advance()
    prefetch.close()


def test_a_failure_ends_the_thread_and_nobody_waits(tmp_path):
    def fetch(ids: list[int]) -> list[bytes]:
        raise RuntimeError("gone")

    prefetch = RemotePrefetcher(ImageCache(tmp_path, 100), np.arange(10).reshape(2, 5), np.full(10, 1), fetch)
    assert prefetch.ready(1, wait=True)
    prefetch.close()
    assert not prefetch._thread.is_alive()


def test_a_reader_that_leaves_early_ends_the_thread(tmp_path):
    prefetch = prefetch_of(ImageCache(tmp_path, 50), np.arange(300).reshape(3, 100), [])
    assert prefetch.ready(0, wait=True)
    assert prefetch._thread.is_alive(), "it waits for the second step"
    prefetch.close()
    assert not prefetch._thread.is_alive()

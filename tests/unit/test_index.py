"""Exact search against a full sort in numpy, with both backends."""

import sys

import numpy as np
import pytest
import torch

from dist_plm.errors import UserError
from dist_plm.index import faiss_library, flat, nearest, proposals


@pytest.fixture(params=["torch", "faiss"])
def backend(request):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


def brute_force(queries, gallery, k, exclude=None):
    """By (squared distance, id) from float64 differences."""
    ids = []
    for row, query in enumerate(queries.astype(np.float64)):
        squared = ((gallery.astype(np.float64) - query) ** 2).sum(1)
        order = [i for i in np.lexsort((np.arange(len(gallery)), squared)) if exclude is None or i != exclude[row]]
        ids.append(order[:k])
    return np.array(ids)


def sphere(n, dim=16, seed=0, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_neighbours_and_distances_are_those_of_a_full_sort(backend, dtype):
    gallery, queries = sphere(700, dtype=dtype), sphere(90, seed=1, dtype=dtype)
    ids, squared = nearest(queries, gallery, 9, backend=backend)
    assert ids.dtype == np.int64 and ids.shape == squared.shape == (90, 9)
    assert (ids == brute_force(queries, gallery, 9)).all()
    expected = ((gallery[ids].astype(np.float64) - queries[:, None].astype(np.float64)) ** 2).sum(2)
    np.testing.assert_allclose(squared, expected, atol=1e-6)


def test_excluded_rows_are_not_found(backend):
    gallery = sphere(300)
    own = np.random.default_rng(3).permutation(300)[:80]
    ids, _ = nearest(gallery[own], gallery, 5, exclude=own, backend=backend)
    assert (ids == brute_force(gallery[own], gallery, 5, own)).all()


@pytest.mark.parametrize("k", [1, 7, 40])
def test_heavy_duplicates_tie_by_id(backend, k, monkeypatch):
    monkeypatch.setattr(flat, "QUERY_BLOCK", 64)
    monkeypatch.setattr(proposals, "BLOCK", 100)
    different = np.random.default_rng(0).integers(-2, 3, (12, 6)) / 4  # exact distances in every precision
    gallery = different[np.random.default_rng(1).integers(0, 12, 1500)].astype(np.float32)
    own = np.arange(0, 1500, 10)
    ids, squared = nearest(gallery[own], gallery, k, exclude=own, backend=backend)
    assert (ids == brute_force(gallery[own], gallery, k, own)).all()
    assert k > 40 or (squared[:, 0] == 0).all()


def test_identical_images_rank_by_id(backend):
    gallery = np.full((2000, 8), 0.3, np.float32)
    ids, _ = nearest(gallery[:3], gallery, 4, exclude=np.arange(3), backend=backend)
    assert ids.tolist() == [[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4]]


def test_near_ties_below_the_noise_of_float32_are_resolved(backend):
    # 100 rows at distances that float32 products cannot tell apart, ids in the opposite order to the distances.
    gallery = np.concatenate([np.eye(8), -np.eye(8), np.tile(np.eye(8)[0] * 0.5, (100, 1))])
    gallery[16:, 1] = np.arange(100, 0, -1) * 2.0**-14
    query = np.eye(8)[:1] * 0.5
    ids, _ = nearest(query, gallery, 5, backend=backend)
    assert ids.tolist() == [[115, 114, 113, 112, 111]]


def test_backends_agree_at_many_distances():
    pytest.importorskip("faiss")
    gallery = np.round(sphere(4000, dim=24) * 6) / 6
    own = np.arange(500)
    results = [nearest(gallery[own], gallery, 20, exclude=own, backend=b) for b in ("faiss", "torch", "auto")]
    for ids, squared in results[1:]:
        assert (ids == results[0][0]).all() and (squared == results[0][1]).all()


def test_shares_of_the_queries_give_the_rows_of_the_whole(backend):
    gallery = np.round(sphere(900) * 5) / 5
    whole, _ = nearest(gallery, gallery, 6, exclude=np.arange(900), backend=backend)
    for world in (2, 3):
        shares = np.array_split(np.arange(900), world)
        parts = [nearest(gallery[own], gallery, 6, exclude=own, backend=backend)[0] for own in shares]
        assert (np.concatenate(parts) == whole).all()
    ids, squared = nearest(gallery[:0], gallery, 6, exclude=np.arange(0), backend=backend)
    assert ids.shape == squared.shape == (0, 6)


def test_memory_maps_and_tensors_are_galleries(backend, tmp_path):
    gallery = sphere(200, dtype=np.float16)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    expected = brute_force(gallery[:10], gallery, 3)
    assert (nearest(mapped[:10], mapped, 3, backend=backend)[0] == expected).all()
    tensor = torch.from_numpy(gallery)
    assert (nearest(tensor[:10], tensor, 3, backend=backend)[0] == expected).all()


def test_all_of_the_gallery_and_not_more(backend):
    gallery = sphere(12)
    own = np.arange(12)
    ids, _ = nearest(gallery, gallery, 11, exclude=own, backend=backend)
    assert (ids == brute_force(gallery, gallery, 11, own)).all()
    for k, exclude in ((12, own), (13, None), (0, None)):
        with pytest.raises(UserError, match="neighbours"):
            nearest(gallery, gallery, k, exclude=exclude, backend=backend)


def test_progress_counts_queries(backend):
    done = []
    gallery = sphere(2500)
    nearest(gallery, gallery, 1, backend=backend, progress=done.append)
    assert done == [1024, 2048, 2500]


def test_missing_faiss_is_named_and_auto_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(faiss_library, "_imported", faiss_library._imported.__wrapped__)
    gallery = sphere(20)
    with pytest.raises(UserError, match=r"index\.backend faiss needs faiss, .*pip install faiss-cpu"):
        nearest(gallery, gallery, 2, backend="faiss")
    assert (nearest(gallery, gallery, 2)[0] == brute_force(gallery, gallery, 2)).all()


def searching_with(monkeypatch, error):
    """Let the fast search find what is nearest by exact distance + error(lattice, ids), lattice units."""

    def search_in(lattice, rows):
        points = lattice.points(rows.tensor)

        def search(queries, fetch):
            squared = torch.cdist(queries.double(), points, compute_mode="donot_use_mm_for_euclid_dist").square()
            near = (squared + error(lattice, squared)).topk(fetch, largest=False)
            return near.values, near.indices

        return search

    monkeypatch.setattr(proposals, "search_by_torch", search_in)


def test_errors_beyond_float32_are_seen_among_the_candidates(monkeypatch):
    torch.manual_seed(0)
    searching_with(monkeypatch, lambda lattice, squared: (torch.rand_like(squared) - 0.5) * 0.1 * lattice.radius**2)
    gallery = sphere(3000)
    ids, _ = nearest(gallery[:200], gallery, 5, backend="torch")
    assert (ids == brute_force(gallery[:200], gallery, 5)).all()


def test_an_error_of_float32_on_the_nearest_row_is_allowed_for(monkeypatch):
    def error(lattice, squared):
        # Three quarters of what rounding may do at D = 8: row 16 seems the farthest of the near ties.
        return 0.75 * 16 * 2.0**-24 * (2 * lattice.radius) ** 2 * (torch.arange(squared.shape[1]) == 16)

    searching_with(monkeypatch, error)
    gallery = np.concatenate([np.eye(8), -np.eye(8), np.tile(np.eye(8)[0] * 0.5, (50, 1))])
    gallery[16:, 1] = np.arange(50) * 2.0**-16
    ids, _ = nearest(np.eye(8)[:1] * 0.5, gallery, 2, backend="torch")
    assert ids.tolist() == [[16, 17]]

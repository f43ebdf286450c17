"""Retrieval metrics against loops over exact rational distances."""

from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dist_plm.evaluation import recall_at_k, retrieval, retrieval_counts
from dist_plm.index import flat, proposals, ranking
from dist_plm.index.ranking import Lattice, nearest_keys

KS = [1, 2, 4, 8]


@pytest.fixture(params=["scan", "candidates"], autouse=True)
def way(request, monkeypatch):
    """Both ways to the order: float64 distances to the whole gallery, or to the candidates of a float32 search."""
    for module in (retrieval, flat):
        monkeypatch.setattr(module, "SCANNED", 10**9 if request.param == "scan" else 0)
    return request.param


def exact_order(query, gallery, own):
    """Gallery rows by (distance, index) in exact rational arithmetic, without row `own`."""

    def squared(row):
        return sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(query, gallery[row], strict=True))

    return sorted((row for row in range(len(gallery)) if row != own), key=lambda row: (squared(row), row))


def loop_counts(queries, query_labels, gallery, gallery_labels, ks, own_rows):
    counted, dropped, hits, precision = 0, 0, dict.fromkeys(ks, 0), 0.0
    for q in range(len(queries)):
        own = None if own_rows is None else int(own_rows[q])
        label = int(query_labels[q])
        positives = sum(int(gallery_labels[row]) == label for row in range(len(gallery)) if row != own)
        if label == -1 or positives == 0:
            dropped += 1
            continue
        counted += 1
        relevant = [int(gallery_labels[row]) == label for row in exact_order(queries[q], gallery, own)]
        for k in ks:
            hits[k] += any(relevant[:k])
        precision += sum(sum(relevant[: i + 1]) / (i + 1) for i in range(positives) if relevant[i]) / positives
    return counted, dropped, hits, precision


def check(queries, query_labels, gallery, gallery_labels, ks=KS, own_rows=None):
    counts = retrieval_counts(queries, query_labels, gallery, gallery_labels, ks, own_rows=own_rows)
    counted, dropped, hits, precision = loop_counts(queries, query_labels, gallery, gallery_labels, ks, own_rows)
    assert (counts.queries, counts.dropped, counts.hits) == (counted, dropped, hits)
    assert counts.precision == pytest.approx(precision, abs=1e-12)


def random_case(seed, n=60, dim=3, classes=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), torch.randint(-1, classes, (n,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_every_query_counts_as_in_the_loop(dtype):
    x, y = random_case(0)
    x = torch.nn.functional.normalize(x, dim=1).to(dtype)
    check(x, y, x, y, own_rows=torch.arange(60))


def test_duplicates_and_coarse_grids_tie_by_index():
    for seed in range(4):
        x, y = random_case(seed, dim=2)
        x = (x * 2).round() / 8  # a handful of different points: nearly every distance occurs many times
        check(x, y, x, y, own_rows=torch.arange(60))


def test_identical_embeddings_rank_by_index():
    y = torch.tensor([0, 1, 1, 0, 2, 2, 2])
    x = torch.full((7, 5), 0.1)
    check(x, y, x, y, own_rows=torch.arange(7))
    # All find row 0, which is of row 3's class only, and row 0 finds row 1.
    assert recall_at_k(x, y, [1]) == {1: 1 / 7}


def test_single_member_classes_are_dropped_and_counted():
    x, _ = random_case(1, n=6)
    counts = retrieval_counts(x, y := torch.tensor([0, 0, 1, 2, -1, -1]), x, y, [1], own_rows=torch.arange(6))
    assert (counts.queries, counts.dropped) == (2, 4)


def test_separate_gallery_keeps_its_rows():
    (q, ql), (g, gl) = random_case(2, n=25), random_case(3, n=40)
    ql[0] = 99
    g[7] = q[3]
    check(q, ql, g, gl)
    counts = retrieval_counts(q[:1], torch.tensor([4]), q[:1], torch.tensor([4]), [1], own_rows=None)
    assert counts.hits == {1: 1}


def test_the_query_is_removed_by_index_not_by_position():
    # The copy with the lower index comes first, so that dropping the first position would keep the query itself.
    x = torch.tensor([[0.0, 0], [0, 0], [5, 5], [9, 0]])
    y = torch.tensor([0, 1, 1, 0])
    assert recall_at_k(x, y, [1]) == {1: 0.0}
    check(x, y, x, y, ks=[1, 2, 3], own_rows=torch.arange(4))


def test_k_beyond_the_gallery_reads_as_all_of_it():
    x, y = random_case(4, n=10, classes=2)
    assert recall_at_k(x, y, [9, 1000]) == {9: 1.0, 1000: 1.0}


def test_map_at_r_by_hand():
    x = torch.tensor([[0.0], [1], [2], [3]])
    y = torch.tensor([0, 1, 0, 0])
    counts = retrieval_counts(x[:1], y[:1], x, y, [1], own_rows=torch.tensor([0]))
    assert counts.precision == pytest.approx((0 + 1 / 2) / 2)  # R = 2; ranks 1, 2 are 1 (other), 2 (own class)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_of_the_queries_add_up(world, monkeypatch):
    x, y = random_case(5, n=200)
    x = (x * 4).round() / 4
    whole = retrieval_counts(x, y, x, y, KS, own_rows=torch.arange(200))
    monkeypatch.setattr(retrieval, "QUERY_BLOCK", 13)
    monkeypatch.setattr(ranking, "GALLERY_BLOCK", 17)
    rows = [torch.arange(200)[rank::world] for rank in range(world)]
    total = reduce(add, (retrieval_counts(x[r], y[r], x, y, KS, own_rows=r) for r in rows))
    assert (total.queries, total.dropped, total.hits) == (whole.queries, whole.dropped, whole.hits)
    assert total.precision == pytest.approx(whole.precision, rel=1e-13)


def test_no_queries_add_nothing():
    x, y = random_case(6)
    none = retrieval_counts(x[:0], y[:0], x, y, KS, own_rows=torch.arange(0))
    some = retrieval_counts(x, y, x, y, KS, own_rows=torch.arange(60))
    assert some + none == some
    with pytest.raises(ValueError, match="no query"):
        none.metrics()


def test_equal_distances_have_equal_keys_in_any_product_shape():
    # Permuted coordinates: equal distances from the origin whose floating-point sums differ in their last bits.
    generator = np.random.default_rng(0)
    base = generator.standard_normal(97)
    gallery = torch.from_numpy(np.stack([generator.permutation(base) for _ in range(50)]))
    gallery = torch.cat([gallery, -gallery])  # centres the lattice on the origin, so that its distances are equal too
    assert len({float(row @ row) for row in gallery}) > 1
    lattice = Lattice.around(gallery, torch.zeros(1, 97))
    for queries in (1, 2, 33):
        keys = nearest_keys(torch.zeros(queries, 97), gallery, 100, lattice)
        assert (lattice.ids(keys) == torch.arange(100)).all()


def test_keys_fit_at_the_largest_norms_and_ids():
    far = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    for scale in (1e-30, 1.0, 1.39999, 1.4, 1.5, 1e30):
        lattice = Lattice.around(far.double() * scale, far.double() * scale)
        points = lattice.points(far.double() * scale)
        squared = (points[0] - points[1]).square().sum()
        assert squared < 2**53
        for bits in (1, 10, 11, 31):
            widest = Lattice(lattice.centre, lattice.step, lattice.radius, bits)
            key = widest.keys(squared, torch.tensor(2**bits - 1))
            assert 0 < key < ranking.LAST
            assert widest.ids(key) == 2**bits - 1
            assert float(widest.squared(key)) == pytest.approx(float(squared), rel=2.0**-30)


def test_an_offset_costs_no_resolution():
    x, y = random_case(7)
    x = x.double().mul(2**10).round()
    near_collapse = x / 2**40 + 1  # exact in float64; differences are 2^-30 of the norm
    assert recall_at_k(near_collapse, y, KS) == recall_at_k(x, y, KS)


def test_the_input_is_left_alone():
    x, y = random_case(8)
    x = x.double()
    before = x.clone()
    recall_at_k(x, y, [1])
    assert torch.equal(x, before)


@pytest.mark.parametrize("ks", [[], [0], [1, -2]])
def test_wrong_ks_are_refused(ks):
    x, y = random_case(9)
    with pytest.raises(ValueError, match="recall@K"):
        recall_at_k(x, y, ks)


def test_wrong_shapes_and_numbers_are_refused():
    x, y = random_case(9)
    with pytest.raises(ValueError, match="do not fit"):
        recall_at_k(x, y[:-1], [1])
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        recall_at_k(x, y, [1])


class Products(TorchDispatchMode):
    """Numbers in the results of matrix products in float64."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default) and result.dtype == torch.float64:
            self.numbers += result.numel()
        return result


def near_ties(count):
    """Unit vectors in clusters of three kinds: apart, closer than float32 resolves on either side, and duplicates."""
    random = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(count, 16, generator=random, dtype=torch.float64), dim=1)
    third = count // 3
    x[third : 2 * third] = x[:third] + 1e-8 * torch.randn(third, 16, generator=random, dtype=torch.float64)
    x[2 * third :] = x[torch.randint(20, (count - 2 * third,), generator=random)]  # of 20 rows about count / 60 each
    return x[torch.randperm(count, generator=random)], torch.randint(0, 150, (count,), generator=random)


def test_only_candidates_are_computed_in_float64(monkeypatch):
    """The same counts as by the scan of all pairs, with no matrix product in float64."""
    x, y = near_ties(3_000)
    monkeypatch.setattr(retrieval, "SCANNED", 10**9)
    with Products() as scanned:
        expected = retrieval_counts(x, y, x, y, KS, own_rows=torch.arange(3_000))
    assert scanned.numbers == 3_000**2
    for module in (retrieval, flat):
        monkeypatch.setattr(module, "SCANNED", 5)
    with Products() as seen:
        counts = retrieval_counts(x, y, x, y, KS, own_rows=torch.arange(3_000))
    assert counts == expected
    assert np.array_equal(counts.first, expected.first)
    assert seen.numbers == 0


def test_queries_with_many_ties_get_more_candidates(monkeypatch):
    monkeypatch.setattr(flat, "SCANNED", 1)
    random = torch.Generator().manual_seed(2)
    x = torch.randn(50, 8, generator=random).repeat_interleave(40, 0)  # of each 40: no fetch of 14 can be certain
    lattice, held = Lattice.around(x, x), flat.HeldRows(x)
    fetched = []

    def propose(queries, fetch):
        fetched.append((len(queries), fetch))
        return proposals.search_by_torch(lattice, held)(queries, fetch)

    keys = flat.Exact(held, lattice, propose).search(x[:300], torch.arange(300), 5)
    assert torch.equal(keys, nearest_keys(x[:300], x, 5, lattice, torch.arange(300)))
    assert fetched == [(300, 14), (300, 56)]

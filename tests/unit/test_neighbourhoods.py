"""Linear neighbourhoods against loops in numpy, on planted circles, and under ties, duplicates, slices and float32."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_plm.manifold import linear_neighbourhoods, orthonormal
from tests import oracle

CENTRES, CRITERIA = ("anchor", "origin", "mean"), ("energy", "norm")


def curved(count: int, dim: int, seed: int, noise: float = 0.1) -> Tensor:
    """Unit vectors near curved surfaces: some neighbours fit a plane at T = .9 and some do not."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 3
    waves = torch.cat([(f * angles).cos() for f in (1, 2)] + [(f * angles).sin() for f in (1, 3)], dim=1)
    mix = torch.randn(waves.shape[1], dim, generator=generator, dtype=torch.float64)
    blur = noise * torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(waves @ mix + blur, dim=1)


def projectors(basis: Tensor) -> Tensor:
    return basis @ basis.mT


def assert_like_oracle(x: Tensor, **arguments) -> None:
    found = linear_neighbourhoods(x, **arguments)
    plain = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    bases, members, indices = oracle.linear_neighbourhoods(x.numpy(), **plain)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.members, members)
    np.testing.assert_allclose(projectors(found.basis), bases @ bases.transpose(0, 2, 1), atol=1e-9)


@pytest.mark.parametrize(("centre", "criterion"), list(product(CENTRES, CRITERIA)))
@pytest.mark.parametrize(("count", "size", "k", "dim"), [(30, 8, 10, 3), (17, 5, 6, 2), (12, 20, 4, 4), (9, 6, 8, 1)])
def test_matches_the_loops(centre, criterion, count, size, k, dim):
    for seed, threshold in ((0, 0.9), (1, 0.7)):
        x = curved(count, size, seed)
        assert_like_oracle(x, k=k, dim=dim, threshold=threshold, centre=centre, criterion=criterion)


def test_both_outcomes_occur():
    """Guards the comparison above: a threshold that takes all or none would compare nothing."""
    members = linear_neighbourhoods(curved(30, 8, 0), k=10, dim=3, threshold=0.9).members[:, 4:]
    assert 0.1 < members.double().mean() < 0.9


@pytest.mark.parametrize(("centre", "criterion"), list(product(CENTRES, CRITERIA)))
def test_duplicates_and_low_rank(centre, criterion):
    x = curved(8, 6, seed=2).repeat(3, 1)
    assert_like_oracle(x, k=7, dim=3, threshold=0.9, centre=centre, criterion=criterion)
    line = curved(1, 6, seed=3) * torch.arange(1, 13, dtype=torch.float64)[:, None].sqrt()
    assert_like_oracle(line, k=5, dim=3, threshold=0.9, centre=centre, criterion=criterion)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centre", ["anchor", "mean"])
def test_points_equal_up_to_rounding_give_no_direction(dtype, centre):
    x = curved(1, 6, seed=4).to(dtype).repeat(9, 1)
    for ulps in (0, 4):
        steps = torch.randint(-ulps, ulps + 1, x.shape, generator=torch.Generator().manual_seed(0))
        rounded = x * (1 + steps * torch.finfo(dtype).eps)
        found = linear_neighbourhoods(rounded, k=5, dim=3, threshold=0.9, centre=centre)
        assert found.members.all() and found.basis.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_between_duplicates_decides_nothing(dtype):
    """One image decoded twice differs by rounding: both must join, and neither may turn the plane."""
    x = curved(10, 6, seed=5).to(dtype)
    ulp = torch.finfo(dtype).eps * torch.randn(10, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = linear_neighbourhoods(torch.cat([x, x]), k=9, dim=3, threshold=0.95)
    rounded = linear_neighbourhoods(torch.cat([x, x + ulp * x.abs()]), k=9, dim=3, threshold=0.95)
    assert rounded.members[:, 1].all()
    assert rounded.members.sum() == exact.members.sum()
    torch.testing.assert_close(
        projectors(rounded.basis), projectors(exact.basis), rtol=0, atol=1e4 * torch.finfo(dtype).eps
    )


def test_ties_break_by_row():
    corners = torch.eye(9, dtype=torch.float64)
    for i, row in enumerate(linear_neighbourhoods(corners, k=5, dim=2, threshold=0.9).indices.tolist()):
        assert row == [i, *[j for j in range(9) if j != i][:5]]


def test_slices_with_rows_equal_the_whole():
    x = curved(48, 8, seed=6)
    x[20] = x[3]
    whole = linear_neighbourhoods(x, k=10, dim=3, threshold=0.9)
    for parts in (2, 3, 4):
        rows = torch.arange(48).chunk(parts)
        pieces = [linear_neighbourhoods(x[r], k=10, dim=3, threshold=0.9, candidates=x, rows=r) for r in rows]
        assert torch.equal(torch.cat([piece.indices for piece in pieces]), whole.indices)
        assert torch.equal(torch.cat([piece.members for piece in pieces]), whole.members)
        basis = torch.cat([piece.basis for piece in pieces])
        torch.testing.assert_close(projectors(basis), projectors(whole.basis), rtol=0, atol=1e-12)


def test_own_row_is_the_first_equal_candidate():
    x = curved(20, 8, seed=7)
    x[15] = x[4]
    found = linear_neighbourhoods(x[[4, 15, 9]], k=6, dim=3, threshold=0.9, candidates=x)
    assert found.indices[:, 0].tolist() == [4, 4, 9] and found.indices[:2, 1].tolist() == [15, 15]


def test_strangers_exclude_no_candidate():
    x, strangers = curved(20, 8, seed=8), curved(5, 8, seed=9)
    found = linear_neighbourhoods(strangers, k=6, dim=3, threshold=0.9, candidates=x)
    assert (found.indices[:, 0] == -1).all()
    assert torch.equal(found.indices[:, 1], torch.cdist(strangers, x).argmin(dim=1))
    assert_like_oracle(strangers, k=6, dim=3, threshold=0.9, candidates=x, rows=torch.full((5,), -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_basis_is_orthonormal(dtype):
    basis = linear_neighbourhoods(curved(60, 16, 10, noise=1e-3).to(dtype), k=10, dim=3, threshold=0.9).basis
    identity = torch.eye(3, dtype=dtype).expand(60, 3, 3)
    torch.testing.assert_close(basis.mT @ basis, identity, rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("centre", CENTRES)
def test_float32_agrees_with_float64(centre):
    x = curved(200, 32, seed=11)
    exact = linear_neighbourhoods(x, k=10, dim=3, threshold=0.9, centre=centre)
    rounded = linear_neighbourhoods(x.float(), k=10, dim=3, threshold=0.9, centre=centre)
    same = (exact.members == rounded.members).all(dim=1) & (exact.indices == rounded.indices).all(dim=1)
    assert rounded.basis.dtype == torch.float32 and same.double().mean() >= 0.99
    error = (projectors(exact.basis) - projectors(rounded.basis).double()).abs().amax(dim=(1, 2))[same]
    assert error.median() < 1e-5 and error.max() < 1e-2


def test_great_circles_are_told_apart():
    """40 circles in R^5: nearest neighbours cross over where circles meet, members of a plane do not."""
    generator = torch.Generator().manual_seed(0)
    planes = orthonormal(torch.randn(40, 5, 2, generator=generator, dtype=torch.float64))
    angle = 2 * torch.pi * torch.rand(40, 60, generator=generator, dtype=torch.float64)
    x = (torch.stack([angle.cos(), angle.sin()], dim=2) @ planes.mT).reshape(-1, 5)
    x = x + 0.01 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    circle = torch.arange(40).repeat_interleave(60)
    found = linear_neighbourhoods(x, k=12, dim=2, threshold=0.999, centre="origin")
    same, members = circle[found.indices[:, 1:]] == circle[:, None], found.members[:, 1:]
    nearest = torch.arange(12) < members.sum(dim=1, keepdim=True)
    assert members.sum(dim=1).double().mean() > 5
    assert same[members].double().mean() > 0.95
    assert 0.78 < same[nearest].double().mean() < 0.88


def test_constants_without_gradient():
    x = curved(20, 8, seed=12).requires_grad_()
    assert not linear_neighbourhoods(x, k=6, dim=3, threshold=0.9).basis.requires_grad


@pytest.mark.parametrize("centre", CENTRES)
def test_nothing_depends_on_values_on_the_host(centre):
    """On the meta device every read of a value, every boolean index and every data-dependent shape raises."""
    x, candidates = torch.empty(20, 8, device="meta"), torch.empty(80, 8, device="meta")
    for arguments in ({}, {"candidates": candidates}):
        found = linear_neighbourhoods(x, k=6, dim=3, threshold=0.9, centre=centre, **arguments)
        assert [tensor.shape for tensor in found] == [(20, 8, 3), (20, 7), (20, 7)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 2}, "k = 2"),
        ({"k": 20}, "20 candidates"),
        ({"dim": 0}, "dim = 0"),
        ({"threshold": 90.0}, "threshold = 90"),
        ({"centre": "median"}, "median"),
        ({"criterion": "error"}, "error"),
        ({"rows": torch.arange(3)}, "rows"),
        ({"candidates": torch.zeros(30, 7)}, r"\[30, 7\]"),
        ({"candidates": torch.zeros(30, 8, dtype=torch.float64)}, "float64"),
        ({"points": torch.zeros(20, 8, dtype=torch.bfloat16)}, "bfloat16"),
        ({"points": torch.zeros(20)}, r"\[20\]"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    arguments = {"points": torch.zeros(20, 8), "k": 10, "dim": 3, "threshold": 0.9} | change
    with pytest.raises(ValueError, match=words):
        linear_neighbourhoods(arguments.pop("points"), **arguments)


def test_gram_matrices_on_which_lapack_fails_in_float32():
    """Points near a plane of 5 dimensions, k = 30: with MKL, an eigendecomposition fails in each batch of this size."""
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(200, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
    x = torch.nn.functional.normalize(flat + 1e-3 * torch.randn(200, 64, generator=generator), dim=1)
    found = linear_neighbourhoods(x, k=30, dim=3, threshold=0.9)
    expected = linear_neighbourhoods(x.double(), k=30, dim=3, threshold=0.9)
    assert (found.members == expected.members).all(dim=1).float().mean() > 0.9, "but for those at the threshold"


def test_a_failing_matrix_changes_no_other(monkeypatch):
    """Each row is what it would be in a batch of its own, so that it is the same on any number of ranks: to rounding,
    since MKL rounds by the alignment of a matrix in memory (AMD EPYC 7003: 71 % of those of 11 x 11)."""
    x = curved(12, 8, seed=4).float()
    expected = linear_neighbourhoods(x, k=6, dim=2, threshold=0.9)
    eigh, hard, in_float64 = torch.linalg.eigh, [], []

    def failing(gram: Tensor) -> tuple[Tensor, Tensor]:
        if len(gram) == len(x):
            hard.append(gram[3])
        if gram.dtype == torch.float32 and any(torch.equal(matrix, hard[-1]) for matrix in gram):
            raise torch.linalg.LinAlgError("failed to converge")
        in_float64.extend([len(gram)] * (gram.dtype == torch.float64))
        return eigh(gram)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    found = linear_neighbourhoods(x, k=6, dim=2, threshold=0.9)
    others = torch.arange(12) != 3
    torch.testing.assert_close(found.basis[others], expected.basis[others], rtol=0, atol=1e-6)
    assert set(in_float64) == {1}, "the failing matrix alone"
    assert torch.equal(found.members, expected.members)
    torch.testing.assert_close(projectors(found.basis[3]), projectors(expected.basis[3]), rtol=0, atol=1e-5)

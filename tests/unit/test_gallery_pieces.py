"""Neighbourhoods from the gallery and projected points, against loops and least squares."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_plm.config import ManifoldConfig
from dist_plm.manifold import linear_neighbourhoods, mean_of_members, neighbourhoods_among, project
from dist_plm.methods.piecewise import batch_pieces, gallery_pieces
from tests import oracle

VIEWS, K = 2, 6


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def projectors(basis: Tensor) -> Tensor:
    return basis @ basis.mT


@pytest.mark.parametrize("centre", ["anchor", "mean"])
def test_other_views_join_first_then_the_gallery(centre):
    """Each point's piece is that of the loops over [x, its other view, the k nearest images], in this order."""
    x, neighbours = unit(8, 7), unit(4, K, 7, seed=1)
    config = ManifoldConfig(k=K, scope="gallery", centre=centre, threshold=0.6)
    found = gallery_pieces(x, neighbours, VIEWS, config)
    for i in range(len(x)):
        candidates = torch.cat([x[i][None], x[i ^ 1][None], neighbours[i // VIEWS]])
        members, basis = by_loops(candidates.numpy(), centre, threshold=0.6, dim=3)
        np.testing.assert_array_equal(found.members[i], members)
        np.testing.assert_allclose(projectors(found.basis[i]), basis @ basis.T, atol=1e-9)


def by_loops(x: np.ndarray, centre: str, threshold: float, dim: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = list(range(dim))
    for j in range(dim, len(x)):
        v, u = oracle.pca(x[[*chosen, j]], centre, x[0], dim)
        if oracle.fits(v, u, threshold, "energy"):
            chosen.append(j)
    return np.isin(np.arange(len(x)), chosen), oracle.pca(x[chosen], centre, x[0], dim)[1]


def test_a_piece_for_each_image_is_shared_by_its_views():
    x, neighbours = unit(8, 7), unit(4, K, 7, seed=1)
    config = ManifoldConfig(k=K, scope="gallery", piece="image", centre="mean", project=True)
    found = gallery_pieces(x, neighbours, VIEWS, config)
    anchors = x.reshape(4, VIEWS, 7).mean(1)
    basis, _ = neighbourhoods_among(anchors, neighbours, dim=3, threshold=0.9, centre="mean")
    torch.testing.assert_close(projectors(found.basis), projectors(basis.repeat_interleave(VIEWS, 0)))
    # Both views lie on one plane: their difference is within its span.
    difference = (found.projected[0::2] - found.projected[1::2])[:, :, None]
    torch.testing.assert_close(basis @ (basis.mT @ difference), difference)


def test_the_projection_is_the_nearest_point_of_the_piece():
    """Against least squares over coordinates on the plane through the members' mean."""
    x = unit(12, 7)
    config = ManifoldConfig(k=K, centre="mean", project=True, threshold=0.7)
    found = batch_pieces(x, x, torch.arange(12), config)
    plain = linear_neighbourhoods(x, k=K, dim=3, threshold=0.7, centre="mean")
    for i in range(len(x)):
        mean = x[plain.indices[i][plain.members[i]]].mean(0)
        solution = torch.linalg.lstsq(plain.basis[i], x[i] - mean).solution
        torch.testing.assert_close(found.projected[i], mean + plain.basis[i] @ solution)


def test_all_members_weigh_the_same_in_their_mean():
    x, neighbours = unit(3, 5), unit(3, 4, 5, seed=1)
    members = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    expected = torch.stack([torch.cat([x[i][None], neighbours[i]])[members[i]].mean(0) for i in range(3)])
    torch.testing.assert_close(mean_of_members(x, neighbours, members), expected)


def test_projecting_twice_changes_nothing():
    x, basis, centre = unit(4, 6), torch.linalg.qr(unit(4, 6, 2, seed=1))[0], unit(4, 6, seed=2)
    once = project(x, basis, centre)
    torch.testing.assert_close(project(once, basis, centre), once)


def test_without_other_views_a_piece_is_of_the_gallery_alone():
    x, neighbours = unit(4, 7), unit(4, K, 7, seed=1)
    found = gallery_pieces(x, neighbours, 1, ManifoldConfig(k=K, scope="gallery", threshold=0.6))
    for i in range(len(x)):
        members, basis = by_loops(torch.cat([x[i][None], neighbours[i]]).numpy(), "anchor", threshold=0.6, dim=3)
        np.testing.assert_array_equal(found.members[i], members)
        np.testing.assert_allclose(projectors(found.basis[i]), basis @ basis.T, atol=1e-9)

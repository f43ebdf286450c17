"""Where distances vanish: exactly 0, with gradient 0 where the formula's own is infinite, and within any threshold."""

import pytest
import torch

from dist_plm.manifold import linear_neighbourhoods
from dist_plm.manifold.distance import distance, root
from dist_plm.manifold.similarity import across, along


def test_a_root_has_gradient_0_where_it_is_0():
    squared = torch.tensor([-1e-9, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    value = root(squared)
    assert value.tolist() == [0, 0, 2]
    (gradient,) = torch.autograd.grad(value.sum(), squared)
    assert gradient.tolist() == [0, 0, 0.25]


def test_a_duplicate_is_at_distance_0_and_pulls_nowhere():
    x = torch.tensor([[1.0, 2.0], [4.0, 6.0]], dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    d = distance(x, y)
    assert d.tolist() == [[0, 5], [5, 0]]
    of_x, of_y = torch.autograd.grad(d[0].sum(), (x, y))
    for found, wanted in ((of_x, [[-0.6, -0.8], [0, 0]]), (of_y, [[0, 0], [0.6, 0.8]])):
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_lies_in_a_neighbourhood_is_off_it_by_exactly_0(dtype):
    """Points y + U c: o = 0, though rounding leaves d^2 - p^2 of either sign."""
    random = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 3, generator=random, dtype=torch.float64)).Q
    y = torch.nn.functional.normalize(torch.randn(1, 16, generator=random, dtype=torch.float64), dim=1)
    x = y + 0.3 * torch.randn(500, 3, generator=random).double() @ basis.T
    x, y, basis = (each.to(dtype) for each in (x, y, basis))
    d, p = distance(x, y), along(x, y, basis[None])
    assert (d.square() - p.square()).gt(0).any(), "there is rounding to be told from a distance"
    assert across(d, p).eq(0).all()


@pytest.mark.parametrize("criterion", ["energy", "norm"])
def test_what_is_in_the_plane_joins_at_the_highest_threshold(criterion):
    """T = 1 asks for all of |v|, which points of a plane have to the last bit that is told from 0."""
    random = torch.Generator().manual_seed(1)
    points = torch.randn(9, 2, generator=random, dtype=torch.float64) @ torch.randn(2, 6, generator=random).double()
    found = linear_neighbourhoods(points, k=8, dim=2, threshold=1.0, criterion=criterion)
    assert found.members.all()

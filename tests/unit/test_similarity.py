"""Similarity against loops in numpy, the constants of the formulas, and its limits in memory and precision."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dist_plm.manifold import orthonormal, point_similarity, proxy_similarity
from dist_plm.manifold.distance import distance
from dist_plm.manifold.similarity import across, along
from tests import oracle


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def bases(count: int, size: int, dim: int, seed: int) -> Tensor:
    return orthonormal(unit(count, size, dim, seed=seed))


def pair_similarity(o: float, p: float) -> float:
    """s of two points o apart across and p apart along a neighbourhood that both share."""
    x = torch.tensor([[0.0, 0.0], [p, o]], dtype=torch.float64)
    along_first_axis = torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand(2, 2, 1)
    return point_similarity(x, along_first_axis)[0, 1].item()


@pytest.mark.parametrize(("count", "proxies", "size", "dim"), [(9, 5, 8, 3), (6, 11, 5, 1), (4, 4, 3, 3)])
def test_matches_the_loops(count, proxies, size, dim):
    """Where m = D all of d lies along: o is the root of a rounding error in d^2, hence the wider bound."""
    bound = 1e-7 if dim == size else 1e-9
    x, u = unit(count, size, seed=0), bases(count, size, dim, 1)
    rho, psi = unit(proxies, size, seed=2), bases(proxies, size, dim, 3)
    u[0, :, -1] = 0
    for n_alpha, n_beta in ((4.0, 0.5), (1.0, 2.0)):
        n = {"n_alpha": n_alpha, "n_beta": n_beta}
        plain = [tensor.numpy() for tensor in (x, u, rho, psi)]
        points = oracle.similarity(*plain[:2], *plain[:2], **n)
        np.testing.assert_allclose(point_similarity(x, u, **n), points, atol=bound)
        mixed = oracle.similarity(*plain, **n)
        np.testing.assert_allclose(proxy_similarity(x, u, rho, psi, **n), mixed, atol=bound)


def test_ranges_of_alpha_and_beta():
    assert pair_similarity(0, 0) == 1
    assert pair_similarity(2, 0) == pytest.approx(2**-4)
    assert pair_similarity(0, 1) == pytest.approx(0.7071, abs=5e-5)
    assert pair_similarity(0, 2) == pytest.approx(0.5774, abs=5e-5)
    smallest = min(pair_similarity(2 * np.cos(t), 2 * np.sin(t)) for t in np.linspace(0, np.pi / 2, 500))
    assert smallest == pytest.approx(0.0542, abs=5e-5)


def test_target_distances():
    """delta (1 - s) rises by 4 per unit of o and 1 per unit of p, and meets the distance itself at o = 1.8551."""

    def target(o: float, p: float) -> float:
        return 2 * (1 - pair_similarity(o, p))

    assert target(1e-6, 0) / 1e-6 == pytest.approx(4, abs=1e-4)
    assert target(0, 1e-6) / 1e-6 == pytest.approx(1, abs=1e-4)
    assert target(0, 0.5) == pytest.approx(0.367, abs=5e-4)
    assert target(0, 1) == pytest.approx(0.586, abs=5e-4)
    assert target(1.8550, 0) > 1.8550 and target(1.8552, 0) < 1.8552


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_components_make_up_the_distance(dtype):
    x, u = unit(30, 16, seed=4).to(dtype), bases(30, 16, 3, 5).to(dtype)
    d, p = distance(x, x), along(x, x, u)
    torch.testing.assert_close(across(d, p) ** 2 + p**2, d**2, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_symmetric_and_one_for_the_point_itself():
    s = point_similarity(unit(37, 16, seed=6), bases(37, 16, 3, 7))
    assert torch.equal(s, s.mT)
    torch.testing.assert_close(s.diagonal(), torch.ones(37, dtype=torch.float64), rtol=0, atol=1e-14)


def test_rows_against_columns_equal_the_square():
    x, u = unit(24, 16, seed=8), bases(24, 16, 3, 9)
    whole = point_similarity(x, u)
    for parts in (1, 2, 3):
        pieces = [
            point_similarity(rows, basis, columns=x, column_basis=u)
            for rows, basis in zip(x.chunk(parts), u.chunk(parts), strict=True)
        ]
        torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-14)


def test_float32_agrees_with_float64():
    x, u, rho, psi = unit(50, 64, seed=10), bases(50, 64, 3, 11), unit(40, 64, seed=12), bases(40, 64, 3, 13)
    exact = proxy_similarity(x, u, rho, psi)
    rounded = proxy_similarity(*(tensor.float() for tensor in (x, u, rho, psi)))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=1e-6)


def test_near_points_in_float32():
    """1e-4 apart; through |x|^2 + |y|^2 - 2x'y the distance itself would be wrong by 100 %."""
    x = unit(2, 64, seed=14)
    x[1] = torch.nn.functional.normalize(x[0] + 1e-4 * unit(1, 64, seed=15)[0], dim=0)
    u = bases(2, 64, 3, 16)
    missing = 1 - point_similarity(x, u)[0, 1]
    assert 1 - point_similarity(x.float(), u.float())[0, 1].double() == pytest.approx(missing.item(), rel=0.02)


def test_autocast_is_kept_out():
    x, u = unit(20, 16, seed=17).float(), bases(20, 16, 3, 18).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = point_similarity(x, u)
    assert torch.equal(inside, point_similarity(x, u))


def test_gradient_reaches_proxies_and_their_bases():
    x, u, rho, psi = unit(4, 6, seed=19), bases(4, 6, 2, 20), unit(3, 6, seed=21), bases(3, 6, 2, 22)
    rho.requires_grad_()
    psi.requires_grad_()
    assert torch.autograd.gradcheck(lambda rho, psi: proxy_similarity(x, u, rho, psi), (rho, psi))


def test_gradient_is_finite_where_a_proxy_meets_a_point():
    x, u = unit(4, 6, seed=23), bases(4, 6, 2, 24)
    rho, psi = x.clone().requires_grad_(), u.clone().requires_grad_()
    proxy_similarity(x, u, rho, psi).sum().backward()
    assert rho.grad is not None and rho.grad.isfinite().all() and psi.grad is not None and psi.grad.isfinite().all()


def test_a_broken_embedding_stays_visible():
    x = unit(4, 6, seed=25)
    x[1, 2] = torch.nan
    assert point_similarity(x, bases(4, 6, 2, 26)).isnan()[1].all()


class LargestTensor(TorchDispatchMode):
    """Largest number of elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_larger_than_all_pairs():
    """A million proxies: [B, P] fits, [B, P, M] and [B, P, D] do not."""
    x, u, rho, psi = unit(64, 8, seed=27), bases(64, 8, 3, 28), unit(512, 8, seed=29), bases(512, 8, 3, 30)
    rho.requires_grad_()
    psi.requires_grad_()
    with LargestTensor() as largest:
        proxy_similarity(x, u, rho, psi).sum().backward()
    assert largest.elements == 64 * 512


def test_nothing_depends_on_values_on_the_host():
    x, u = torch.empty(5, 8, device="meta"), torch.empty(5, 8, 3, device="meta")
    rho, psi = torch.empty(7, 8, device="meta"), torch.empty(7, 8, 3, device="meta")
    assert point_similarity(x, u).shape == (5, 5) and proxy_similarity(x, u, rho, psi).shape == (5, 7)


def test_wrong_arguments_are_named():
    x, u = unit(5, 8, seed=31), bases(5, 8, 3, 32)
    with pytest.raises(ValueError, match="float16"):
        point_similarity(x.half(), u.half())
    with pytest.raises(ValueError, match="float32"):
        point_similarity(x, u.float())
    with pytest.raises(ValueError, match="go together"):
        point_similarity(x, u, columns=x)
    with pytest.raises(ValueError, match=r"\[4, 8, 3\]"):
        proxy_similarity(x, u, x, u[:4])

"""The losses against loops in numpy and numerical derivatives, who is trained by which, and their shares over ranks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_plm.manifold import (
    effective_rank,
    mean_pair_distance,
    neighbourhood_loss,
    orthonormal,
    point_loss,
    point_similarity,
    proxy_loss,
    proxy_similarity,
)
from dist_plm.manifold.distance import distance
from tests import oracle


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bases(count: int, size: int, dim: int, seed: int) -> Tensor:
    return orthonormal(unit(count, size, dim, seed=seed))


@pytest.mark.parametrize(("count", "proxies", "size", "dim"), [(9, 5, 8, 3), (6, 11, 5, 1), (2, 1, 4, 2)])
def test_match_the_loops(count, proxies, size, dim):
    z, rho = unit(count, size, seed=0), unit(proxies, size, seed=1)
    u, psi = bases(count, size, dim, 2), bases(proxies, size, dim, 3)
    u[0, :, -1] = 0
    s, s_rho = uniform(count, count, seed=4), uniform(count, proxies, seed=5)
    for delta in (2.0, 1.0):
        expected = oracle.point_loss(z.numpy(), s.numpy(), delta)
        assert point_loss(z, s, delta=delta).item() == pytest.approx(expected, abs=1e-9)
        expected = oracle.proxy_loss(z.numpy(), rho.numpy(), s_rho.numpy(), delta)
        assert proxy_loss(z, rho, s_rho, delta=delta).item() == pytest.approx(expected, abs=1e-9)
    expected = oracle.neighbourhood_loss(u.numpy(), psi.numpy(), s_rho.numpy())
    assert neighbourhood_loss(u, psi, s_rho).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("cosine", "residual"), [(0.6, 0.422), (0.3, 0.255), (0.0, 0.123)])
def test_residual_of_a_pair_with_nothing_along(cosine, residual):
    z = torch.tensor([[1, 0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
    s = point_similarity(z, torch.zeros(2, 2, 1, dtype=torch.float64))
    assert point_loss(z, s).item() / 2 == pytest.approx(residual, abs=5e-4)


def test_numerical_derivatives():
    z, rho, psi = unit(5, 4, seed=6), unit(3, 4, seed=7), bases(3, 4, 2, 8)
    u, s, s_rho = bases(5, 4, 2, 9), uniform(5, 5, seed=10), uniform(5, 3, seed=11)
    for tensor in (z, rho, psi, s, s_rho):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(point_loss, (z, s))
    assert torch.autograd.gradcheck(proxy_loss, (z, rho, s_rho))
    assert torch.autograd.gradcheck(lambda psi, s: neighbourhood_loss(u, psi, s), (psi, s_rho))
    assert torch.autograd.gradcheck(orthonormal, (uniform(3, 4, 2, seed=12).requires_grad_(),))
    assert torch.autograd.gradcheck(distance, (z, rho))


def test_each_loss_trains_its_own():
    """Eq. 6 the network, eq. 7 network and proxies, eq. 8 Psi alone; a constant s passes nothing on."""
    z, rho, psi, u = unit(6, 5, seed=13), unit(4, 5, seed=14), bases(4, 5, 2, 15), bases(6, 5, 2, 16)
    for tensor in (z, rho, psi, u):
        tensor.requires_grad_()

    def trained(loss: Tensor) -> list[bool]:
        gradients = torch.autograd.grad(loss, (z, rho, psi, u), allow_unused=True, retain_graph=True)
        return [gradient is not None for gradient in gradients]

    constants = z.detach(), u.detach()
    s = point_similarity(*constants)
    s_rho = proxy_similarity(*constants, rho.detach(), psi.detach())
    carrying = proxy_similarity(*constants, rho, psi)
    assert trained(point_loss(z, s)) == [True, False, False, False]
    assert trained(proxy_loss(z, rho, s_rho)) == [True, True, False, False]
    assert trained(neighbourhood_loss(u, psi, s_rho)) == [False, False, True, False]
    assert trained(proxy_loss(z, rho, carrying)) == [True, True, True, False]
    assert trained(neighbourhood_loss(u, psi, carrying)) == [False, True, True, False]


def test_gradient_at_zero_is_zero():
    """Two equal points have no direction to part in; a psi at right angles to P_i has none to turn to."""
    z = unit(1, 4, seed=17).repeat(3, 1).requires_grad_()
    s = torch.zeros(3, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(point_loss(z, s), z)
    assert gradient.count_nonzero() == 0
    rho = z.detach()[:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(proxy_loss(z.detach(), rho, s[:, :2]), rho)
    assert gradient.count_nonzero() == 0
    axes = torch.eye(4, dtype=torch.float64)
    u, psi = axes[None, :, :2], axes[None, :, 2:].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(neighbourhood_loss(u, psi, s[:1, :1] + 0.5), psi)
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shares_of_ranks_add_up(world):
    z, s = unit(24, 8, seed=18).requires_grad_(), uniform(24, 24, seed=19)
    s = (s + s.mT) / 2
    whole = point_loss(z, s)
    (expected,) = torch.autograd.grad(whole, z)
    rows = torch.arange(24).chunk(world)
    shares = [point_loss(z[r], s[r], columns=z, rows=r) for r in rows]
    (gradient,) = torch.autograd.grad(torch.stack(shares).sum(), z)
    assert torch.stack(shares).sum().item() == pytest.approx(whole.item(), rel=1e-13)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    detached = [2 * point_loss(z[r], s[r], columns=z.detach(), rows=r) for r in rows]
    (gradient,) = torch.autograd.grad(torch.stack(detached).sum(), z)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_float32_agrees_with_float64():
    z, rho, s = unit(40, 32, seed=20), unit(30, 32, seed=21), uniform(40, 30, seed=22)
    z[1], rho[0] = z[0], z[2] + 1e-5 * unit(1, 32, seed=23)[0]
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = z.to(dtype).requires_grad_()
        loss = proxy_loss(leaf, rho.to(dtype), s.to(dtype)) + point_loss(leaf, s.to(dtype) @ s.to(dtype).mT / 30)
        assert loss.dtype == dtype
        gradients.append(torch.autograd.grad(loss, leaf)[0].double())
    error = (gradients[0] - gradients[1]).abs().amax(dim=1)
    assert error[torch.arange(40) != 2].max() < 1e-4 and error[2] < 0.05


def test_no_proxies_cost_nothing():
    z, none = unit(5, 8, seed=24).requires_grad_(), torch.zeros(0, 8, dtype=torch.float64)
    s = torch.zeros(5, 0, dtype=torch.float64)
    loss = proxy_loss(z, none, s) + neighbourhood_loss(bases(5, 8, 3, 25), torch.zeros(0, 8, 3, dtype=torch.float64), s)
    loss.backward()
    assert loss.item() == 0 and z.grad is not None and z.grad.count_nonzero() == 0


def test_the_backward_keeps_nothing_larger_than_pairs_or_proxies():
    """No [B, P, M] and no [B, P, D]: matrices [B, P], one for each basis vector in its turn, and Psi itself."""
    z, rho, psi = unit(16, 8, seed=31), unit(200, 8, seed=32), bases(200, 8, 3, 33)
    u, s = bases(16, 8, 3, 34), uniform(16, 200, seed=35)
    for tensor in (z, rho, psi):
        tensor.requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = proxy_loss(z, rho, s) + neighbourhood_loss(u, psi, s)
    assert max(kept.values()) <= 200 * 8 * 3
    loss.backward()
    assert psi.grad is not None


def test_nothing_depends_on_values_on_the_host():
    z, rho = torch.empty(5, 8, device="meta", requires_grad=True), torch.empty(7, 8, device="meta")
    u, psi = torch.empty(5, 8, 3, device="meta"), torch.empty(7, 8, 3, device="meta", requires_grad=True)
    s, s_rho = torch.empty(5, 5, device="meta"), torch.empty(5, 7, device="meta")
    loss = point_loss(z, s) + proxy_loss(z, rho, s_rho) + neighbourhood_loss(u, orthonormal(psi), s_rho)
    loss.backward()
    assert z.grad is not None and psi.grad is not None


def test_wrong_arguments_are_named():
    z, s = unit(5, 8, seed=26), uniform(5, 5, seed=27)
    with pytest.raises(ValueError, match="bfloat16"):
        point_loss(z.bfloat16(), s.bfloat16())
    with pytest.raises(ValueError, match=r"similarity must be \[5, 5\]"):
        point_loss(z, s[:, :1])
    with pytest.raises(ValueError, match="go together"):
        point_loss(z, s, columns=z)
    with pytest.raises(ValueError, match=r"similarity must be \[5, 3\]"):
        proxy_loss(z, z[:3], s)
    with pytest.raises(ValueError, match=r"proxy_basis must be \[5, 8, 3\]"):
        neighbourhood_loss(bases(5, 8, 3, 28), bases(5, 8, 2, 29), s)


def test_orthonormal_is_the_thin_qr_with_positive_diagonal():
    raw = torch.randn(6, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw[0, :, 1] = raw[0, :, 0] + 1e-5 * raw[0, :, 1]
    for matrix, found in zip(raw.numpy(), orthonormal(raw).numpy(), strict=True):
        q, r = np.linalg.qr(matrix)
        np.testing.assert_allclose(found, q * np.sign(np.diag(r)), atol=1e-9)
        np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-14)


def test_signs_of_collapse():
    """Directions with equal weight count themselves; the rank is the exponential of the entropy of shares."""
    axes = torch.eye(4, dtype=torch.float64)
    assert effective_rank(axes.repeat(3, 1)).item() == pytest.approx(4)
    assert effective_rank(unit(1, 4, seed=30).repeat(5, 1)).item() == pytest.approx(1, abs=1e-9)
    shares = np.array([0.5, 0.25, 0.25])
    weighted = axes[:3] * torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)[:, None]
    assert effective_rank(weighted).item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert mean_pair_distance(axes).item() == pytest.approx(2**0.5)
    assert mean_pair_distance(axes[:1].repeat(5, 1)).item() == 0

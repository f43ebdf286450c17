"""The proxies' losses piece by piece against the same losses on all proxies at once, in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_plm.config import Config, ManifoldConfig, ModelConfig, ProxiesConfig
from dist_plm.distributed.world import World
from dist_plm.manifold import neighbourhood_loss, proxy_loss, proxy_similarity
from dist_plm.methods import Points, build_method, plm
from dist_plm.methods.piecewise import neighbourhoods

POINTS, DIM, MANIFOLD_DIM = 40, 6, 2


def setting(count: int, similarity_gradient: bool = False):
    config = Config(
        model=ModelConfig(dim=DIM),
        manifold=ManifoldConfig(dim=MANIFOLD_DIM, k=5),
        proxies=ProxiesConfig(count=count, similarity_gradient=similarity_gradient),
    )
    method = build_method("plm", config, World()).double()
    generator = torch.Generator().manual_seed(1)
    x, z = (torch.randn(POINTS, DIM, dtype=torch.float64, generator=generator) for _ in range(2))
    return method, nn.functional.normalize(x), nn.functional.normalize(z).requires_grad_()


def terms(method: nn.Module, x: Tensor, z: Tensor) -> list[Tensor]:
    """Means of equations 7 and 8 and the gradients of their weighted sum."""
    first, second = method._proxy_shares(method.proxies, z, method.prepare(x), z.new_tensor(2.0))
    return [first, second, *torch.autograd.grad(first + 3 * second, [z, *method.parameters()])]


def terms_at_once(method: nn.Module, x: Tensor, z: Tensor, similarity_gradient: bool) -> list[Tensor]:
    proxies, pairs = method.proxies, POINTS * method.proxies.count
    basis = neighbourhoods(x, x, torch.arange(POINTS), method.config.manifold).basis
    rho, psi = proxies.constrained(proxies.raw_rho, proxies.raw_psi)
    manifold = method.config.manifold
    s = proxy_similarity(x, basis, rho, psi, n_alpha=manifold.n_alpha, n_beta=manifold.n_beta)
    s = s if similarity_gradient else s.detach()
    first, second = proxy_loss(z, rho, s) / pairs, neighbourhood_loss(basis, psi, s) / (pairs * MANIFOLD_DIM)
    return [first, second, *torch.autograd.grad(first + 3 * second, [z, *method.parameters()])]


@pytest.mark.parametrize("similarity_gradient", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 100])
def test_pieces_equal_all_at_once(piece: int, similarity_gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plm, "PAIRS", piece * POINTS)
    method, x, z = setting(23, similarity_gradient)
    for found, expected in zip(terms(method, x, z), terms_at_once(method, x, z, similarity_gradient), strict=True):
        assert expected.norm() > 0
        assert (found - expected).norm() <= 1e-12 * expected.norm()


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *made])
        return result


def test_nothing_larger_than_the_proxies_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plm, "PAIRS", 100 * POINTS)
    method, x, z = setting(1000)
    with Largest() as largest:
        method(Points(z, x, views=2)).share.backward()
    assert largest.numel == method.proxies.raw_psi.numel()  # 12,000, where points x proxies are 40,000

"""Binary similarity and X_i = all k, the ablations of the appendix, against loops."""

import pytest
import torch

from dist_plm.config import Config, ManifoldConfig, ModelConfig, ProxiesConfig
from dist_plm.distributed.world import World
from dist_plm.manifold import linear_neighbourhoods
from dist_plm.manifold.membership import member_similarity, nearest_points_similarity
from dist_plm.methods import Points, build_method
from dist_plm.methods.piecewise import member_ids


def sphere(count: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64))


def loop_similarity(found, count):
    holds = [set(found.indices[i][found.members[i]].tolist()) for i in range(count)]
    return torch.tensor([[((j in holds[i]) + (i in holds[j])) / 2 for j in range(count)] for i in range(count)])


@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_membership_both_ways(threshold):
    x = sphere(30)
    found = linear_neighbourhoods(x, k=7, dim=2, threshold=threshold)
    s = member_similarity(member_ids(found), torch.arange(30))
    assert torch.equal(s, loop_similarity(found, 30).float())
    assert torch.equal(s, s.T) and bool((s.diagonal() == 1).all()) and 0.5 in s
    rows = torch.tensor([4, 9])
    assert torch.equal(member_similarity(member_ids(found), rows), s[rows])


@pytest.mark.parametrize("criterion", ["energy", "norm"])
def test_at_threshold_0_all_neighbours_join(criterion):
    x = torch.eye(12, dtype=torch.float32)  # most neighbours are orthogonal to any plane through three others
    assert linear_neighbourhoods(x, k=9, dim=2, threshold=0.0, criterion=criterion, centre="origin").members.all()


def test_a_proxy_holds_the_points_nearest_to_it():
    x, rho = sphere(20), sphere(5, seed=1)
    s = nearest_points_similarity(x, rho, 4)
    for j in range(5):
        nearest = sorted(range(20), key=lambda i: float((x[i] - rho[j]).norm()))[:4]
        assert s[:, j].nonzero().flatten().tolist() == sorted(nearest)
    assert s.dtype == x.dtype and set(s.unique().tolist()) == {0.0, 1.0}


def test_the_loss_of_the_method_is_that_of_its_binary_targets():
    x, z = sphere(24), sphere(24, seed=2)
    manifold = ManifoldConfig(dim=2, k=6, similarity="binary")
    config = Config(model=ModelConfig(dim=6), manifold=manifold, proxies=ProxiesConfig(count=0))
    loss = build_method("plm", config, World()).double()(Points(z, x, views=2))
    s = loop_similarity(linear_neighbourhoods(x, k=6, dim=2, threshold=0.9), 24).double()
    residual = 2 * (1 - s) - torch.cdist(z, z)
    assert float(loss.share) == pytest.approx(float(residual.fill_diagonal_(0).square().sum()) / (24 * 23), rel=1e-9)
    assert torch.equal(loss.targets.similarity.float(), s.float())

"""The gradient of every method against finite differences of its loss, on one rank.

Tests of W ranks compare with one: a gradient that one rank lacks too, as when gathered columns are cut off from the
graph, agrees with itself there.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, WarmUpConfig
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method

IMAGES, VIEWS, DIM, WIDE, CLASSES = 6, 2, 4, 5, 3
CONFIG = Config(
    model=ModelConfig(dim=DIM, wide_dim=WIDE),
    batch=BatchConfig(groups=2, group_size=3),
    manifold=ManifoldConfig(dim=2, k=5),
    proxies=ProxiesConfig(count=3),
    warm_up=WarmUpConfig(temperature=0.5),
)


@pytest.mark.parametrize("name", ["plm", "instance", "neighbour_contrast", "stml", "proxy_anchor"])
def test_a_gradient_is_that_of_finite_differences(name: str) -> None:
    random = torch.Generator().manual_seed(0)

    def sphere(dim: int) -> Tensor:
        return normalize(torch.randn(IMAGES * VIEWS, dim, dtype=torch.float64, generator=random))

    z, x, wide, teacher_wide = sphere(DIM), sphere(DIM), sphere(WIDE), sphere(WIDE)
    ids, labels = (each.repeat_interleave(VIEWS) for each in (torch.arange(IMAGES), torch.arange(IMAGES) % CLASSES))
    method = build_method(name, CONFIG, World(), CLASSES).double()

    def loss(z: Tensor) -> Tensor:
        points = Points(z, x, VIEWS, ids=ids, labels=labels, student_wide=wide, teacher_wide=teacher_wide)
        return method(points).share

    z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z)
    assert (gradient.norm(dim=1) > 0).all()
    assert torch.autograd.gradcheck(loss, z, eps=1e-6, atol=1e-7, rtol=1e-5)

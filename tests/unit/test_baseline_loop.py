"""The plain loop that the project is timed against computes what the project computes."""

import torch
from torch.nn.functional import normalize

from benchmarks.baseline_loop import plain_loss
from dist_plm.config import Config, ManifoldConfig, ModelConfig, ProxiesConfig
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method

CONFIG = Config(model=ModelConfig(dim=12), manifold=ManifoldConfig(k=6), proxies=ProxiesConfig(count=5))


def test_loss_and_gradients_are_the_project_s():
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 12, generator=random).repeat_interleave(8, 0)
    z, x = (normalize(centres + 0.6 * torch.randn(32, 12, generator=random)).double() for _ in range(2))
    method = build_method("plm", CONFIG, World()).double()
    raw = (method.proxies.raw_rho, method.proxies.raw_psi)
    z.requires_grad_()
    theirs = method(Points(z, x, views=2)).share
    ours = plain_loss(z, x, *raw, CONFIG)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-12)
    wanted = torch.autograd.grad(theirs, (z, *raw))
    for gradient, expected in zip(torch.autograd.grad(ours, (z, *raw)), wanted, strict=True):
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-9)

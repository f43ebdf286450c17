"""A training step on a GPU, traced without one: no copy between host and device, and nothing that waits for a result.

The device is torch's `meta`, on which operators run on shapes alone: what would need a value on the host (`item`,
`nonzero`, a mask as an index) raises there, and a tensor made on the host shows beside the others. A
fake device called cuda would say the same, but its backward asks for a driver.
"""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, ViewsConfig
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method

IMAGES, VIEWS, NEIGHBOURS, WIDE = 20, 2, 6, 32


class Copies(TorchDispatchMode):
    """Counts operators, and those whose tensors lie on two devices; a scalar tensor made on the host counts."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.across = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
        if len(devices) > 1:
            self.across.append(str(func))
        return result


CASES = {
    "plm": Config(),
    "gallery": Config(manifold=ManifoldConfig(k=NEIGHBOURS, scope="gallery", centre="mean", project=True)),
    "relative": Config(proxies=ProxiesConfig(count=0)),
    "stml": Config(model=ModelConfig(wide_dim=WIDE)),
}


def step(config: Config, method_name: str) -> Tensor:
    """The method's part of a step, from embeddings to their gradient: all of it but the encoders' own operators."""
    device, points, dim = torch.device("meta"), IMAGES * VIEWS, config.model.dim
    method = build_method(method_name, config, World(device=device)).to(device)
    z, x, z_wide, x_wide = (torch.zeros(points, width, device=device) for width in (dim, dim, WIDE, WIDE))
    batch = Points(
        z.requires_grad_(),
        x,
        VIEWS,
        ids=torch.zeros(points, dtype=torch.int64, device=device),
        student_wide=z_wide.requires_grad_(),
        teacher_wide=x_wide,
        neighbours=torch.zeros(IMAGES, NEIGHBOURS, dim, device=device),
    )
    with Copies() as copies:
        loss = method(batch)
        loss.share.backward()
    assert copies.operators > 50, "the step was watched"
    assert copies.across == []
    return loss.share


@pytest.mark.parametrize("name", CASES)
def test_a_step_neither_copies_nor_waits(name: str) -> None:
    config = CASES[name]
    config.model.dim = 16
    config.batch, config.views = BatchConfig(groups=4, group_size=5), ViewsConfig(size=32, resize=36, count=VIEWS)
    assert step(config, "stml" if name == "stml" else "plm").device.type == "meta"


def test_a_wait_is_seen() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").sum().item()
    with Copies() as copies:
        torch.ones(3, device="meta") * torch.ones(()) + torch.ones(3, device="meta").copy_(torch.ones(3))
    assert copies.across

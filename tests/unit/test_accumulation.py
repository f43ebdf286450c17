"""A batch in pieces whose network draws random numbers: the gradient is that of the masks under which z came about."""

import pytest
import torch
from torch import Tensor, nn

from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy import DataParallel

VIEWS = torch.rand(10, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Dropout(), nn.Tanh(), nn.Linear(16, 4)).double()


def loss(z: Tensor) -> Tensor:
    """Of all pairs, so that no sum over pieces has the same gradient."""
    return (z @ z.mT).sin().sum()


def gradients(pieces: int) -> list[Tensor]:
    student = network()
    updates = Updates(torch.optim.SGD(student.parameters(), fused=True))
    strategy = DataParallel(student, updates, World(), precision="fp64", micro_batches=pieces)
    torch.manual_seed(2)
    embedded = strategy.embed(VIEWS)
    after_embed = torch.get_rng_state()
    z = embedded.detach().requires_grad_()
    loss(z).backward()
    strategy.backward(VIEWS, embedded, z.grad)
    assert torch.equal(torch.get_rng_state(), after_embed), "the replay moved the generator that others draw from"
    return [parameter.grad for parameter in student.parameters()]


def expected(pieces: int) -> list[Tensor]:
    student = network()
    torch.manual_seed(2)
    loss(torch.cat([student(piece) for piece in VIEWS.tensor_split(pieces)])).backward()
    return [parameter.grad for parameter in student.parameters()]


@pytest.mark.parametrize("pieces", [1, 2, 4, 5])
def test_dropout_is_replayed(pieces: int) -> None:
    for found, truth in zip(gradients(pieces), expected(pieces), strict=True):
        assert truth.norm() > 0
        assert (found - truth).norm() <= 1e-12 * truth.norm()


def test_masks_matter_here() -> None:
    student = network()
    torch.manual_seed(3)
    loss(student(VIEWS)).backward()
    first = next(iter(student.parameters())).grad
    assert (first - expected(2)[0]).norm() > 0.1 * first.norm()

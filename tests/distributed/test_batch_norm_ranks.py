"""Synchronised batch norm on real ranks in the training step, against torch's own layer on the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common import on_ranks
from dist_plm.checks import check
from dist_plm.config import BatchConfig, Config, ModelConfig
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.methods import Points, build_method
from dist_plm.model.batch_norm import convert_batch_norm
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy import DataParallel
from dist_plm.training.learner import Learner
from dist_plm.training.warnings import batch_norm_warning

POINTS, DIM, STEPS = 16, 6, 2


class Network(nn.Module):
    """Two convolutions with batch norm behind each, pooled onto the sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, momentum=0.3)
        )
        self.head = nn.Linear(8, DIM)

    def forward(self, views: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(self.maps(views).square().mean((2, 3))), dim=-1)


def trained(world: World, treatment: str) -> dict[str, Tensor]:
    """Embeddings of all ranks, gradients, weights and running statistics after two steps."""
    torch.manual_seed(0)
    student = convert_batch_norm(Network().double(), treatment, world.sum).train()
    views = 5 + torch.randn(POINTS, 3, 8, 8, dtype=torch.float64)
    x = nn.functional.normalize(torch.randn(POINTS, DIM, dtype=torch.float64))
    shares = Shares.even(POINTS // 2, world.size).times(2)
    own = shares.rows(world.rank)
    method = build_method("instance", Config(model=ModelConfig(dim=DIM)), world).double()
    updates = Updates(torch.optim.SGD(student.parameters(), fused=True))
    strategy = DataParallel(student, updates, world, precision="fp64", micro_batches=1)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    result: dict[str, Tensor] = {}
    for step in range(STEPS):
        optimiser.zero_grad()
        embedded = strategy.embed(views[own])
        z = embedded.detach().requires_grad_()
        method(Points(z, x[own], 2, shares)).share.backward()
        strategy.backward(views[own], embedded, z.grad)
        result |= {f"z {step}": world.gather_rows(z.detach(), shares)}
        result |= {f"gradient {step} {name}": p.grad.clone() for name, p in student.named_parameters()}
        optimiser.step()
    return result | {name: value.double() for name, value in student.state_dict().items()}


def difference(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """The largest relative one over all tensors; a bias before batch norm has gradient 0 but for rounding."""
    assert found.keys() == truth.keys()
    return max(float((found[n] - truth[n]).norm() / truth[n].norm().clamp_min(1e-3)) for n in truth)


def treatments(world: World) -> list[dict[str, Tensor]]:
    return [trained(world, "synchronised"), trained(world, "per_rank")]


@pytest.mark.parametrize("size", [2, 3])  # of 8 images, three ranks hold 3 3 2
def test_synchronised_equals_one_process(size: int, tmp_path: Path) -> None:
    truth = trained(World(), "per_rank")  # torch's own layers
    for synchronised, per_rank in on_ranks(size, tmp_path, treatments):
        assert difference(synchronised, truth) <= 1e-11
        assert difference(per_rank, truth) > 0.05, "the statistics of a rank would do as well"


def test_pieces_with_synchronised_statistics_are_refused() -> None:
    settings = Config(model=ModelConfig(batch_norm="synchronised"), batch=BatchConfig(micro_batches=2))
    with pytest.raises(UserError, match=r"model\.batch_norm .*batch\.micro_batches 2"):
        check(settings, 2)


@pytest.mark.parametrize(("treatment", "size", "warned"), [("per_rank", 2, True), ("per_rank", 1, False),
                                                           ("synchronised", 2, False)])  # fmt: skip
def test_per_rank_statistics_are_warned_of(treatment: str, size: int, warned: bool) -> None:
    learner = Learner.__new__(Learner)
    learner.config, learner.world = Config(model=ModelConfig(batch_norm=treatment)), World(size=size)
    learner.student = Network()
    assert ("2 batch norm layers" in batch_norm_warning(learner)) == warned

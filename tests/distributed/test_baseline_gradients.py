"""The baselines on W ranks against one process on the whole batch: loss, gradients, and what moves by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common import on_ranks
from dist_plm.checkpoint.checkpoint import Sharded
from dist_plm.config import BatchConfig, Config, DadaConfig, ModelConfig
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.methods import Method, Points, build_method
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy import DataParallel
from tests.distributed.test_exact_gradients import error, together

GROUPS, GROUP_SIZE, VIEWS, DIM, WIDE = 12, 3, 2, 6, 9
IMAGES = GROUPS * GROUP_SIZE
CASES = [("stml", 1), ("proxy_anchor", 7), ("proxy_anchor", 1), ("dada", 7), ("dada", 40)]
CONFIG = Config(
    seed=3,
    model=ModelConfig(dim=DIM, wide_dim=WIDE),
    batch=BatchConfig(groups=GROUPS, group_size=GROUP_SIZE),
    dada=DadaConfig(proxy_anchor=0.3, balance=0.4, domain_hidden=8, category_hidden=[10, 5]),
)


class Network(nn.Module):
    """Two layers and two heads, each onto its sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(12, 16), nn.Linear(16, DIM + WIDE)

    def forward(self, views: Tensor) -> Tensor:
        heads = self.head(torch.tanh(self.backbone(views.flatten(1)))).split([DIM, WIDE], dim=1)
        return torch.cat([nn.functional.normalize(head, dim=-1) for head in heads], dim=1)


def batch_of(world: World, classes: int) -> tuple[Tensor, Tensor, Tensor, slice]:
    """Views of all images, then ids and labels of all points, and the rows that are this rank's."""
    torch.manual_seed(0)
    views = torch.rand(IMAGES * VIEWS, 3, 2, 2, dtype=torch.float64)
    ids, labels = (
        each.repeat_interleave(VIEWS) for each in (torch.randperm(500)[:IMAGES], torch.arange(IMAGES) % classes)
    )
    return views, ids, labels, shares_of(world).rows(world.rank)


def shares_of(world: World) -> Shares:
    return Shares.even(IMAGES, world.size).times(VIEWS)


def trained(world: World, name: str, classes: int) -> dict[str, Tensor]:
    """Loss and gradients of two steps, in the warm-up of DADA and after it, and the discriminators behind them."""
    torch.manual_seed(1)
    student, teacher = Network().double(), Network().double()
    views, ids, labels, own = batch_of(world, classes)
    x = teacher(views).detach()[own]
    method = build_method(name, CONFIG, world, classes).double()
    updates = Updates(torch.optim.SGD(student.parameters(), fused=True))
    strategy = DataParallel(student, updates, world, precision="fp64", micro_batches=1)
    result: dict[str, Tensor] = {}
    for step in range(2):
        embedded = strategy.embed(views[own])
        z = embedded.detach().requires_grad_()
        points = Points(
            z[:, :DIM], x[:, :DIM], VIEWS, shares_of(world), ids=ids[own], labels=labels[own],
            student_wide=z[:, DIM:], teacher_wide=x[:, DIM:], step=step, epoch=step,
        )  # fmt: skip
        loss = method(points)
        loss.share.backward()
        strategy.backward(views[own], embedded, z.grad)
        result[f"loss {step}"] = world.sum(loss.share.detach()).reshape(1)
        result |= {f"{value} {step}": world.sum(share).reshape(1) for value, share in loss.terms.items()}
        owned = {f"own {step} {name}": p.grad for name, p in method.named_parameters() if p.requires_grad}
        result |= {name: gradient.clone() for name, gradient in owned.items()}
        gradients = {f"{step} {name}": p.grad.clone() for name, p in student.named_parameters()}
        result |= gradients
        student.zero_grad()
        method.zero_grad()
    return result | moved(method)


def moved(method: Method) -> dict[str, Tensor]:
    """What the method moves by itself, with its optimiser's moments and its running statistics."""
    return {n: v.double() for n, v in method.state().items() if not isinstance(v, Sharded)}


def all_cases(world: World) -> list[dict[str, Tensor]]:
    return [trained(world, *case) for case in CASES]


@pytest.mark.parametrize("size", [2, 7])  # of 36 images, seven ranks hold 6 5 5 5 5 5 5
def test_ranks_equal_one_process(size: int, tmp_path: Path) -> None:
    ranks = on_ranks(size, tmp_path, all_cases)
    for number, (name, classes) in enumerate(CASES):
        alone = trained(World(), name, classes)
        weightless = {"contrastive", "distillation"}
        assert all(v.norm() > 0 for n, v in alone.items() if n not in weightless), [
            n for n, v in alone.items() if not v.norm()
        ]
        assert error(together([rank[number] for rank in ranks]), alone) <= 1e-12, (name, classes)


def test_a_step_that_is_void_leaves_the_discriminators_alone() -> None:
    world = World()
    _, ids, labels, _ = batch_of(world, 7)
    method = build_method("dada", replace(CONFIG, dada=replace(CONFIG.dada, dropout=0.0)), world, 7).double()
    z = nn.functional.normalize(torch.randn(len(ids), DIM, dtype=torch.float64)).requires_grad_()
    before = {name: value.clone() for name, value in moved(method).items()}
    for sound in (False, True):
        method(Points(z, z, VIEWS, ids=ids, labels=labels, sound=torch.tensor(sound)))
        weights = {n for n, v in moved(method).items() if "norms" not in n and not torch.equal(v, before[n])}
        assert bool(weights) == sound, weights

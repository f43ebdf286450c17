"""W ranks against one process on the concatenated batch: the loss and every gradient, in float64."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.common import on_ranks
from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, RuntimeConfig
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World, _GatherRows
from dist_plm.methods import Points, build_method
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy import DataParallel, data_parallel

GROUPS, GROUP_SIZE, VIEWS, DIM = 12, 2, 2, 6
POINTS = GROUPS * GROUP_SIZE * VIEWS
PROXIES = (0, 1, 7, 100)
Gradients = dict[str, Tensor]


class Network(nn.Module):
    """An encoder small enough for float64: two layers and the sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(12, 16), nn.Linear(16, DIM)

    def forward(self, views: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(torch.tanh(self.backbone(views.flatten(1)))), dim=-1)


def config(proxies: int, scope: str = "global", micro_batches: int = 1) -> Config:
    return Config(
        seed=3,
        model=ModelConfig(dim=DIM),
        batch=BatchConfig(groups=GROUPS, group_size=GROUP_SIZE, micro_batches=micro_batches),
        manifold=ManifoldConfig(dim=2, k=5, scope=scope, n_alpha=4.0),
        proxies=ProxiesConfig(count=proxies),
    )


def gradients(world: World, config: Config, method_name: str = "plm", rows: slice | None = None) -> Gradients:
    """Loss and gradients of this rank's rows, through the same calls as a training step."""
    torch.manual_seed(0)
    student, teacher = Network().double(), Network().double()
    views = torch.rand(POINTS, 3, 2, 2, dtype=torch.float64)
    shares = Shares.even(GROUPS * GROUP_SIZE, world.size).times(VIEWS)
    # x once for all, then sliced: the PCA amplifies the rounding of a product of another shape by 1 / eigenvalue gap.
    x = teacher(views).detach()
    rows = rows or shares.rows(world.rank)
    views, x = views[rows], x[rows]
    method = build_method(method_name, config, world).double()
    updates = Updates(torch.optim.SGD(student.parameters(), fused=True))
    settings = {"micro_batches": config.batch.micro_batches, "compile": config.runtime.compile}
    strategy = DataParallel(student, updates, world, precision="fp64", **settings)
    embedded = strategy.embed(views)
    z = embedded.detach().requires_grad_()
    neighbours = None
    if method.reads_gallery(config):
        neighbours = nn.functional.normalize(torch.randn(POINTS // VIEWS, 5, DIM, dtype=torch.float64), dim=-1)
        neighbours = neighbours[rows.start // VIEWS : rows.stop // VIEWS]
    loss = method(Points(z, x, VIEWS, shares, neighbours=neighbours))
    loss.share.backward()
    strategy.backward(views, embedded, z.grad)
    result = {"loss": world.sum(loss.share.detach()).reshape(1)}
    result |= {name: p.grad for name, p in student.named_parameters()}
    return result | {f"own {name}": p.grad for name, p in method.named_parameters()}


def all_gradients(world: World, cases: list[tuple[Config, str]]) -> list[Gradients]:
    return [gradients(world, *case) for case in cases]


def together(ranks: list[Gradients]) -> Gradients:
    """One process's view: replicated gradients are the same everywhere, owned ones lie in slices."""
    for other in ranks[1:]:
        for name in ranks[0]:
            assert name.startswith("own ") or torch.equal(ranks[0][name], other[name]), f"{name} differs between ranks"
    return {
        name: torch.cat([rank[name] for rank in ranks]) if name.startswith("own ") else value
        for name, value in ranks[0].items()
    }


def error(found: Gradients, expected: Gradients) -> float:
    """The largest relative difference over all tensors."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm().clamp_min(1e-300)) for name in expected
    )


@pytest.mark.parametrize("size", [2, 3, 7])  # of 24 images, seven ranks hold 4 4 4 3 3 3 3
def test_global_scope_equals_one_process(size: int, tmp_path: Path) -> None:
    cases = [(config(p), "plm") for p in PROXIES] + [(config(0), "instance"), (config(0), "neighbour_contrast")]
    cases += [(config(7, micro_batches=pieces), "plm") for pieces in (2, 3)]
    gallery = ManifoldConfig(dim=2, k=5, scope="gallery", centre="mean", project=True)
    cases += [(replace(config(7), manifold=replace(gallery, piece=piece)), "plm") for piece in ("view", "image")]
    ranks = on_ranks(size, tmp_path, all_gradients, cases)
    for number, (case, method) in enumerate(cases):
        alone = gradients(World(), replace(case, batch=replace(case.batch, micro_batches=1)), method)
        assert all(g.norm() > 0 for g in alone.values())
        assert error(together([rank[number] for rank in ranks]), alone) <= 1e-12, (case.proxies.count, method)


@pytest.mark.parametrize("size", [2, 4])
def test_rank_scope_is_the_mean_of_single_processes(size: int, tmp_path: Path) -> None:
    cases = [(config(p, scope="rank"), "plm") for p in PROXIES]
    ranks = on_ranks(size, tmp_path, all_gradients, cases)
    own = POINTS // size
    for number, (case, method) in enumerate(cases):
        single = [gradients(World(), case, method, slice(r * own, (r + 1) * own)) for r in range(size)]
        mean = {name: torch.stack([each[name] for each in single]).mean(dim=0) for name in single[0]}
        assert error(together([rank[number] for rank in ranks]), mean) <= 1e-12, case.proxies.count


def compiled_gradients(world: World, cases: list[tuple[Config, str]]) -> list[Gradients]:
    # Traced and cut at DDP's buckets as for inductor, whose kernels would take a minute.
    graphs = CompileCounterWithBackend("aot_eager")
    data_parallel.compiled = partial(torch.compile, backend=graphs)
    found = all_gradients(world, cases)
    assert graphs.frame_count, "nothing was compiled"
    return found


def test_compiled_ranks_equal_one_process(tmp_path: Path) -> None:
    compile = RuntimeConfig(compile=True)
    cases = [(replace(config(7, micro_batches=pieces), runtime=compile), "plm") for pieces in (1, 3)]
    alone = gradients(World(), config(7))
    for pieces in zip(*on_ranks(2, tmp_path, compiled_gradients, cases), strict=True):
        assert error(together(list(pieces)), alone) <= 1e-12


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_accumulation_equals_the_whole_batch(pieces: int) -> None:
    assert error(gradients(World(), config(7, micro_batches=pieces)), gradients(World(), config(7))) <= 1e-12


def mutated(world: World, mutation: str) -> Gradients:
    """The same step with a gather that is wrong in one way."""

    def gather_rows(self: World, rows: Tensor, shares: Shares | None = None) -> Tensor:
        shares = self.shares_of(rows, shares)
        if mutation == "no gradient":
            return _GatherRows.apply(rows.detach(), shares)
        gathered = _GatherRows.apply(rows, shares)
        if mutation == "wrong scale":
            return gathered.detach() + (gathered - gathered.detach()) * self.size
        return gathered.roll(len(rows), 0)

    World.gather_rows = gather_rows  # type: ignore[method-assign]
    return gradients(world, config(7))


@pytest.mark.parametrize("mutation", ["no gradient", "wrong scale", "wrong order"])
def test_a_wrong_gather_is_seen(mutation: str, tmp_path: Path) -> None:
    alone = gradients(World(), config(7))
    found = together(on_ranks(2, tmp_path, mutated, mutation))
    assert error(found, alone) > 1e-2
    if mutation != "wrong order":  # what makes this mistake so common: the loss itself does not show it
        assert torch.allclose(found["loss"], alone["loss"], rtol=1e-12)

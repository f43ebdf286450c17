"""Strategy `reproducible` clips by the same norm, bit for bit, whichever rank owns a proxy."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common import on_ranks
from dist_plm.distributed.world import World
from dist_plm.model.proxies import own_rows
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.reproducible import Reproducible

ROWS = (4, 37, 100)  # of 4 rows on 3 ranks the last has none
CLIP = 0.1


def clipped(world: World) -> list[list[Tensor]]:
    """The own rows of clipped gradients of proxies [n, 8] and [n, 8, 3], and those of the student."""
    found, random = [], torch.Generator().manual_seed(0)
    for count in ROWS:
        whole = [torch.randn(count, *shape, generator=random).double() for shape in ((8,), (8, 3))]
        first, last = own_rows(count, world.rank, world.size)
        owned = [nn.Parameter(torch.zeros_like(each[first:last])) for each in whole]
        student = nn.Linear(3, 2)
        updates = Updates(
            torch.optim.SGD(student.parameters(), lr=0.0, fused=True), torch.optim.SGD(owned, lr=0.0), CLIP
        )
        strategy = Reproducible(student, updates, world, precision="fp32", pieces=[1])
        for parameter, gradient in zip(owned, whole, strict=True):
            parameter.grad = gradient[first:last].clone()
        for parameter in student.parameters():
            parameter.grad = torch.ones_like(parameter)
        strategy._clip()
        assert all(parameter.grad is not None for parameter in (*owned, *student.parameters()))
        found.append([parameter.grad for parameter in (*owned, *student.parameters())])
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_norm_does_not_depend_on_the_ranks(ranks: int, tmp_path: Path) -> None:
    alone, together = clipped(World()), on_ranks(ranks, tmp_path, clipped)
    for number, expected in enumerate(alone):
        norm = torch.cat([each.double().flatten() for each in expected]).norm()
        torch.testing.assert_close(norm, torch.tensor(CLIP, dtype=torch.float64), rtol=1e-6, atol=0)
        for place, gradient in enumerate(expected):
            parts = [rank[number][place] for rank in together]
            assert torch.equal(torch.cat(parts) if place < 2 else parts[-1], gradient), (ROWS[number], place)

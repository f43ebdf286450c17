"""delta in the unit of the momentum embeddings' own distances: by loops, and the same on any number of ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import on_ranks
from dist_plm.config import Config, LossConfig
from dist_plm.distributed.world import World
from dist_plm.evaluation.live import batch_quality
from dist_plm.methods import Points, build_method
from tests import oracle
from tests.distributed.test_exact_gradients import POINTS, all_gradients, config, error, gradients, together

COUNT, DIM, VIEWS = 14, 6, 2


def relative(case: Config, delta: float = 0.9) -> Config:
    return replace(case, loss=LossConfig(delta=delta, relative=True))


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = (torch.randn(COUNT, DIM, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
    z, x = (torch.nn.functional.normalize(each) for each in drawn)
    return z, x


def test_targets_are_the_loops():
    z, x = embeddings()
    case = relative(config(0))
    loss = build_method("plm", case, World()).double()(Points(z, x, VIEWS))
    basis, _, _ = oracle.linear_neighbourhoods(x.numpy(), case.manifold.k, case.manifold.dim, case.manifold.threshold)
    s = oracle.similarity(x.numpy(), basis, x.numpy(), basis)
    pairs = [(i, j) for i in range(COUNT) for j in range(COUNT) if i != j]
    far = np.mean([np.linalg.norm(x[i] - x[j]) for i, j in pairs])
    delta = 0.9 * far / np.mean([1 - s[i, j] for i, j in pairs])
    assert loss.terms["point"].item() == pytest.approx(oracle.point_loss(z.numpy(), s, delta) / len(pairs), abs=1e-9)
    assert loss.targets.delta.item() == pytest.approx(delta, abs=1e-9)
    target = np.array([float(loss.targets.distance[i, j]) for i, j in pairs])
    assert target.mean() == pytest.approx(0.9 * far, abs=1e-9)
    attracted = np.mean(
        [t < float((z[i] - z[j]).norm()) for t, (i, j) in zip(target, pairs, strict=True) if i // 2 != j // 2]
    )
    found = batch_quality(loss.targets, z, np.zeros(COUNT // 2, dtype=np.int32), config=case, world=World())
    assert found["positives_attracted"] == pytest.approx(attracted)


def test_a_batch_of_one_point_has_no_targets():
    z, x = embeddings()
    same = x[:1].expand(COUNT, DIM).contiguous()
    loss = build_method("plm", relative(config(3)), World()).double()(Points(z, same, VIEWS))
    assert loss.targets.delta == 0 and torch.isfinite(loss.share)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_agree_with_one_process(size: int, tmp_path: Path) -> None:
    cases = [(relative(config(7)), "plm"), (relative(config(7), 1.3), "plm")]
    ranks = on_ranks(size, tmp_path, all_gradients, cases)
    alone = [gradients(World(), case) for case, _ in cases]
    for number, expected in enumerate(alone):
        assert error(together([rank[number] for rank in ranks]), expected) <= 1e-12
    assert error(alone[0], alone[1]) > 1e-2 and POINTS % size == 0

"""The quality of supervision of a global batch is the same on any number of ranks, and it is that of a loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.common import on_ranks
from dist_plm.config import Config, ManifoldConfig, ModelConfig, ProxiesConfig
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.evaluation.live import batch_quality
from dist_plm.methods import Points, build_method

IMAGES, VIEWS, DIM = 12, 2, 5
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, -1, 2, 0], dtype=np.int32)


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(IMAGES * VIEWS, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    return torch.nn.functional.normalize(x), torch.nn.functional.normalize(z)


def quality(world: World, scope: str = "global") -> dict[str, Any]:
    manifold = ManifoldConfig(dim=2, k=5, threshold=0.7, scope=scope)
    config = Config(model=ModelConfig(dim=DIM), manifold=manifold, proxies=ProxiesConfig(count=0))
    shares = Shares.even(IMAGES, world.size).times(VIEWS)
    x, z = (each[shares.rows(world.rank)] for each in embeddings())
    targets = build_method("plm", config, world).double()(Points(z, x, VIEWS, shares)).targets
    return batch_quality(targets, z, LABELS, shares=shares, config=config, world=world)


def by_loops() -> dict[str, float]:
    """The same on one process, a pair at a time."""
    manifold = ManifoldConfig(dim=2, k=5, threshold=0.7)
    config = Config(model=ModelConfig(dim=DIM), manifold=manifold, proxies=ProxiesConfig(count=0))
    x, z = embeddings()
    targets = build_method("plm", config, World()).double()(Points(z, x, VIEWS)).targets
    label = np.repeat(LABELS, VIEWS)
    pure, nearest, attracted = [], [], {True: [], False: []}
    for i in range(len(x)):
        if label[i] < 0:
            continue
        ids = targets.indices[i].tolist()
        others = [j for j in ids[1:] if j // VIEWS != i // VIEWS]
        chosen = [j for j, member in zip(ids, targets.members[i].tolist(), strict=True) if member and j in others]
        for members, into in ((chosen, pure), (others[: len(chosen)], nearest)):
            known = [label[i], *(label[j] for j in members if label[j] >= 0)]
            into.append(max(known.count(each) for each in known) / len(known))
        for j in range(len(x)):
            if j // VIEWS != i // VIEWS and label[j] >= 0:
                target = 2 * (1 - float(targets.similarity[i, j]))
                attracted[bool(label[i] == label[j])].append(target < float((z[i] - z[j]).norm()))
    return {
        "label_purity": np.mean(pure),
        "label_purity_control": np.mean(nearest),
        "positives_attracted": np.mean(attracted[True]),
        "negatives_attracted": np.mean(attracted[False]),
    }


def test_one_process_counts_as_the_loop_does():
    found = quality(World())
    for name, value in by_loops().items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert {"same_label", "same_label_control"} <= found.keys()


def test_any_number_of_ranks_counts_the_same(tmp_path: Path):
    alone = quality(World())
    for found in on_ranks(5, tmp_path, quality):
        assert found == pytest.approx(alone, abs=1e-12)


def test_a_rank_on_its_own_judges_its_own_columns(tmp_path: Path):
    first, second = on_ranks(2, tmp_path, quality, "rank")
    assert first == second and 0 < first["label_purity"] < 1


def test_nothing_without_labels():
    unlabelled = np.full(IMAGES, -1, dtype=np.int32)
    _, z = embeddings()
    assert batch_quality(None, z, LABELS, config=Config(), world=World()) == {}
    assert quality(World()) and not batch_quality(
        build_method("plm", Config(model=ModelConfig(dim=DIM), proxies=ProxiesConfig(count=0)), World())
        .double()(Points(z, z, VIEWS))
        .targets,
        z,
        unlabelled,
        config=Config(),
        world=World(),
    )

"""A step that is not finite on one rank is skipped on all: weights, moments and proxies stay, and the rank is named."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.common import on_ranks
from dist_plm.checkpoint.checkpoint import staged
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.training.learner import Learner, phases
from tests.settings import small_config


def steps_with_one_bad(world: World) -> dict[str, Any]:
    """Three steps of training, in the second of which rank 1 embeds NaN."""
    config = small_config()
    learner = Learner(config, world, phases(config)[0])
    generator = torch.Generator().manual_seed(world.rank)
    views = [torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator) for _ in range(3)]
    batches = [Batch(step, torch.arange(4) + 4 * world.rank, each) for step, each in enumerate(views)]
    embed = learner.strategy.embed

    learner.step(batches[0], 0, 3)
    before = staged(learner.state())
    if world.rank == 1:
        learner.strategy.embed = lambda views: embed(views) * float("nan")  # type: ignore[method-assign]
    report = learner.step(batches[1], 1, 3)
    learner.strategy.embed = embed  # type: ignore[method-assign]
    moved = [name for name, value in staged(learner.state()).items() if not _equal(value, before[name])]
    logged = learner.describe(report)
    found = learner.skipped.take()
    learner.step(batches[2], 2, 3)
    after = [name for name, value in staged(learner.state()).items() if not _equal(value, before[name])]
    return {"moved": moved, "found": found, "again": learner.skipped.take(), "after": after, "logged": logged}


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(getattr(a, "local", a), getattr(b, "local", b))


def test_a_void_step_moves_nothing(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, steps_with_one_bad)
    for rank in (first, second):
        # phi <- gamma phi + (1 - gamma) theta is taken with the theta that stayed.
        assert all(name.startswith("teacher.") for name in rank["moved"]), rank["moved"]
        assert rank["again"][:2] == (0, 0)
        assert any(name.startswith("student.") for name in rank["after"])
        assert any(name.startswith("method.proxies") for name in rank["after"])
        assert all(value == value for value in rank["logged"].values()), rank["logged"]
    assert first["found"] == (0, 1, 1)
    assert second["found"] == (1, 1, 1)

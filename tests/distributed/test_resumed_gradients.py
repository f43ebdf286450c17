"""A step after a resumption has the bits of the same step in an unbroken run, on three ranks with uneven shares.

On two ranks a sum has one order; on three it depends on where in DDP's buckets a gradient lies.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common import on_ranks
from dist_plm.checkpoint.checkpoint import staged
from dist_plm.config import (
    RuntimeConfig,
)
from dist_plm.data.loader import Batch
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import World
from dist_plm.training.learner import Learner, phases
from tests.settings import small_config

IMAGES, STEPS, STOP = 10, 4, 2


def differing(world: World, strategy: str) -> list[str]:
    """Names of the tensors that differ after STEPS steps from those of a run resumed after STOP of them."""
    config = small_config(groups=5, runtime=RuntimeConfig(strategy=strategy))
    shares, random = batch_shares(config, world.size), torch.Generator().manual_seed(0)
    assert not shares.equal
    first, count = shares.offsets[world.rank], shares.sizes[world.rank]

    def batch(step: int) -> Batch:
        random.manual_seed(step)
        views = torch.randint(0, 256, (2 * IMAGES, 3, 16, 16), dtype=torch.uint8, generator=random)
        return Batch(step, torch.arange(first, first + count), views[2 * first : 2 * (first + count)])

    unbroken = Learner(config, world, phases(config)[0])
    for step in range(STEPS):
        if step == STOP:
            saved = staged(unbroken.state())
        unbroken.step(batch(step), step, STEPS)
    resumed = Learner(config, world, phases(config)[0])
    state = resumed.state()
    for name, value in state.items():
        _local(value).copy_(_local(saved[name]))
    resumed.restore(state)
    for step in range(STOP, STEPS):
        resumed.step(batch(step), step, STEPS)
    ends = [staged(learner.state()) for learner in (unbroken, resumed)]
    return [name for name in ends[0] if not torch.equal(*(_local(end[name]) for end in ends))]


def _local(value: Any) -> Any:
    return getattr(value, "local", value).detach()


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed"])
def test_equal_bits(strategy: str, tmp_path: Path) -> None:
    assert on_ranks(3, tmp_path, differing, strategy) == [[], [], []]

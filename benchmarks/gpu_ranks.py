"""Ranks on GPUs (gloo without): gradients against one rank, the death and the silence of a rank. Under torchrun.

    torchrun --standalone --nproc_per_node 2 -m benchmarks.gpu_ranks

The last check leaves the ranks without a common process group, so each ends at once.
"""

import os
import sys
import time
from dataclasses import replace

import torch

from benchmarks.gpu_common import WORDS, outcome
from dist_plm.config import BatchConfig, Config, ModelConfig, RuntimeConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.connection import connect
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import RankFailure, World
from dist_plm.training.learner import Learner, phases

IMAGES, PATIENCE = 20, 15.0


def gradients(world: World) -> tuple[int, str]:
    """One step by SGD on all ranks and on this rank alone, from the same weights."""
    config = Config(model=ModelConfig(backbone="small", dim=16), batch=BatchConfig(groups=10, group_size=2))
    config = replace(config, optimiser=replace(config.optimiser, name="sgd", lr=0.1))
    random = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2 * IMAGES, 3, 32, 32), dtype=torch.uint8, generator=random).to(world.device)
    ends = []
    for each in (world, World(device=world.device)):
        learner, shares = Learner(config, each, phases(config)[-1]), batch_shares(config, each.size)
        first, count = shares.offsets[each.rank], shares.sizes[each.rank]
        batch = Batch(0, torch.arange(first, first + count), views[2 * first : 2 * (first + count)])
        before = [parameter.detach().clone() for parameter in learner.student.parameters()]
        learner.step(batch, 0, 100)
        moved = [a.detach() - b for a, b in zip(learner.student.parameters(), before, strict=True)]
        ends.append(torch.cat([step.flatten() for step in moved]))
    off = float((ends[0] - ends[1]).norm() / ends[1].norm())
    return outcome(off < 1e-4), f"gradients of {world.size} ranks against one: off by {off:.1e} of their norm"


def lost(world: World, what: str) -> tuple[int, str]:
    """The last rank dies or sleeps; the others must say who, in bounded time."""
    world.barrier("all are ready")
    if world.rank == world.size - 1:
        if what == "sleeps":
            time.sleep(4 * PATIENCE)
        os._exit(0)
    begin, told = time.monotonic(), "nothing"
    try:
        world.agree(0)
    except RankFailure as failure:
        told = str(failure)
    seconds = time.monotonic() - begin
    named = f"rank {world.size - 1}" in told and seconds < 3 * PATIENCE
    return outcome(named), f"a rank that {what}: named after {seconds:.0f} s ({told[:100]})"


def main() -> None:
    """Print a line a check; status 1 where one failed."""
    world = connect(RuntimeConfig(timeout_seconds=PATIENCE))
    lines = [gradients(world)]
    lines.append(lost(world, "dies" if os.environ.get("LOST") == "dies" else "sleeps"))
    if world.is_first:
        backend = "NCCL" if world.device.type == "cuda" else "gloo"
        for status, line in lines:
            print(f"- {WORDS[status]}: {backend}: {line}", flush=True)
    sys.stdout.flush()
    os._exit(max(status for status, _ in lines))


if __name__ == "__main__":
    main()

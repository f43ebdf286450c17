"""Bytes that the collectives of one training step carry, counted on gloo ranks, beside the formulas.

    python benchmarks/communication.py --ranks 2 4

The collectives of dist_plm.distributed.world are wrapped and their operands measured; the gradient all-reduce of
DistributedDataParallel runs in C++ and is counted by a communication hook, bucket by bucket.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.common import on_ranks
from dist_plm.config import Config, ModelConfig, ProxiesConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed import world as collectives
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import World
from dist_plm.parallel.strategy.data_parallel import DataParallel
from dist_plm.training.learner import Learner, phases

CONFIG = Config(model=ModelConfig(backbone="small", dim=128), proxies=ProxiesConfig(count=1000))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    arguments = parser.parse_args()
    print(f"`python {' '.join(sys.argv)}`: {os.cpu_count()} cores, gloo, torch {torch.__version__}\n")
    print("| W | collective | calls | measured, bytes | computed, bytes |")
    print("|---|---|---|---|---|")
    for size in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            (counted, calls), *_ = on_ranks(size, Path(folder), count)
        for name, computed in formulas(size).items():
            print(f"| {size} | {name} | {calls[name]} | {counted[name]:,} | {computed:,} |")


def formulas(ranks: int) -> dict[str, int]:
    """Size of the whole operand of each collective: independent of P, and of W but for what pads unequal shares."""
    points = ranks * batch_shares(CONFIG, ranks).largest * CONFIG.views.count
    row = 4 * CONFIG.model.dim
    parameters = sum(p.numel() for p in _learner(World()).student.parameters())
    return {
        "all-gather of z, x and bases": points * row * (2 + CONFIG.manifold.dim),
        "reduce-scatter of dL/dz": points * row,
        "all-reduce of gradients": 4 * parameters,
        "all-reduce of the step's state": 8,
    }


def count(world: World) -> tuple[Counter[str], Counter[str]]:
    """Bytes and calls by collective in one step of this rank."""
    learner, total, calls = _learner(world), Counter[str](), Counter[str]()

    def note(name: str, operand: Tensor) -> None:
        total[name] += operand.numel() * operand.element_size()
        calls[name] += 1

    def watch(module: Any, function: str, name: str, operand: int) -> None:
        original = getattr(module, function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            note(name, args[operand])
            return original(*args, **kwargs)

        setattr(module, function, watched)

    reduce = dist.all_reduce

    def hook(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        note("all-reduce of gradients", bucket.buffer())
        work = reduce(bucket.buffer().div_(world.size), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    watch(collectives, "_all_gather", "all-gather of z, x and bases", 0)
    watch(collectives, "_reduce_scatter", "reduce-scatter of dL/dz", 1)
    watch(dist, "all_reduce", "all-reduce of the step's state", 0)
    assert isinstance(learner.strategy, DataParallel) and learner.strategy.ddp
    learner.strategy.ddp.register_comm_hook(None, hook)
    own = batch_shares(CONFIG, world.size).sizes[world.rank]
    views = torch.randint(0, 256, (own * CONFIG.views.count, 3, 16, 16), dtype=torch.uint8)
    for step in range(2):
        total.clear()  # before its first step DDP lays out its buckets, by a backward of its own
        calls.clear()
        learner.step(Batch(step, torch.arange(own), views), step, 10)
    return total, calls


def _learner(world: World) -> Learner:
    return Learner(CONFIG, world, phases(CONFIG)[-1])


if __name__ == "__main__":
    main()

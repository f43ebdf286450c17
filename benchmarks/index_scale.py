"""Measure the global index and the plan on synthetic embeddings, for benchmarks/index_scale.md and docs/scale.md.

    python benchmarks/index_scale.py data --images 1000000 --dim 128 --out /tmp/embeddings
    torchrun --nproc_per_node 2 benchmarks/index_scale.py plan --embeddings /tmp/embeddings --sharded
    python benchmarks/index_scale.py product --embeddings /tmp/embeddings
    python benchmarks/index_scale.py search --embeddings /tmp/embeddings --factory IVF1024,SQ8
    python benchmarks/index_scale.py around --embeddings /tmp/embeddings
    python benchmarks/index_scale.py simulate --images 100000000 --out /tmp/plan.npy

Each prints one JSON object. Embeddings are unit vectors around one centre for every hundred images.
"""

import argparse
import hashlib
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_plm.config import BatchConfig, RuntimeConfig
from dist_plm.config.index import IndexConfig
from dist_plm.data.plan import coverage, make_plan, plan_blocks, plan_steps
from dist_plm.data.plan_file import load_plan, save_blocks
from dist_plm.distributed.connection import connect, disconnect
from dist_plm.distributed.world import World
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.global_index import GlobalIndex
from dist_plm.index.nearest_images import NearestImages
from dist_plm.index.placement import Placement, place

SHARD = 50_000
SPREAD = 0.6  # length of what is added to a centre of length 1
BLOCK, PIECE = 1_024, 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    data = _command(commands, "data", write_embeddings)
    data.add_argument("--dim", type=int, default=128)
    data.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    simulate = _command(commands, "simulate", simulated_plan)
    simulate.add_argument("--cover", choices=["random", "disjoint"], default="random")
    for command in (data, simulate):
        command.add_argument("--images", type=int, required=True)
        command.add_argument("--out", type=Path, required=True)
    plan = _command(commands, "plan", hash_of_plan)
    product = _command(commands, "product", share_of_product)
    search = _command(commands, "search", one_refresh)
    around = _command(commands, "around", rows_around)
    for command in (plan, product, search, around):
        command.add_argument("--embeddings", type=Path, required=True)
        command.add_argument("--threads", type=int, default=0, help="of a rank; 0 shares the cores")
    for command in (plan, search):
        command.add_argument("--sharded", action="store_true", help="cut among the ranks")
    around.add_argument("--batches", type=int, default=200, help="of 100 images, with 10 neighbours each")
    product.add_argument("--queries", type=int, default=4 * BLOCK)
    plan.add_argument("--group-size", type=int, default=50, help="images of a group: n / k seeds are searched")
    search.add_argument("--factory", default="Flat")
    search.add_argument("--nprobe", type=int, default=IndexConfig.nprobe)
    search.add_argument("--seeds", type=int, default=10_240)
    search.add_argument("--sample", type=int, default=IndexConfig.recall_sample)
    search.add_argument("--depth", type=int, default=20)
    arguments = parser.parse_args()
    found = arguments.run(arguments)
    if found:
        print(json.dumps({**found, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}))


def _command(commands: Any, name: str, run: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
    command.set_defaults(run=run)
    return command


def write_embeddings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write synthetic embeddings, the way a sweep leaves them."""
    arguments.out.mkdir(parents=True)
    random = np.random.default_rng(0)
    centres = random.standard_normal((max(1, arguments.images // 100), arguments.dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for number, low in enumerate(range(0, arguments.images, SHARD)):
        count = min(SHARD, arguments.images - low)
        rows = random.standard_normal((count, arguments.dim), dtype=np.float32) * (SPREAD / arguments.dim**0.5)
        rows += centres[random.integers(0, len(centres), count)]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        kind = np.float16 if arguments.precision == "fp16" else np.float32
        np.save(arguments.out / f"shard_{number:06d}.npy", rows.astype(kind))
    return {}


def hash_of_plan(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Search the seeds of a whole plan and tell its hash."""
    world, embeddings = _open(arguments)
    batch = BatchConfig(groups=10, group_size=arguments.group_size)
    placement = Placement(arguments.sharded, 0)
    with GlobalIndex(embeddings, IndexConfig(), placement, backend="auto", world=world, seed=0) as index:
        plan = make_plan(len(embeddings), batch=batch, seed=0, epoch=0, neighbours=index.neighbours)
        facts = index.facts
    disconnect(world)
    found = {"ranks": world.size, "seeds": plan.shape[0] * plan.shape[1], "sha256": _sha256(plan), **facts}
    return found if world.is_first else None


def share_of_product(arguments: argparse.Namespace) -> dict[str, Any]:
    """Exact search beside the matrix product of that shape."""
    world, embeddings = _open(arguments)
    seeds = np.random.default_rng(0).permutation(len(embeddings))[: arguments.queries]
    rows, queries = torch.from_numpy(embeddings.whole()), torch.from_numpy(embeddings.take(seeds)).float()
    products = torch.empty(BLOCK, PIECE)
    took: dict[str, list[list[float]]] = {"search": [], "product": []}
    with GlobalIndex(embeddings, IndexConfig(), Placement(False, 0), backend="auto", world=world, seed=0) as index:
        for _ in range(2):
            clock = Clock()
            index.neighbours(seeds, 20)
            took["search"].append(clock.lap())
            for block in queries.split(BLOCK):
                for piece in rows.split(PIECE):
                    torch.mm(block, piece.T, out=products[: len(block), : len(piece)])
            took["product"].append(clock.lap())
    disconnect(world)
    (search, search_cpu), (product, product_cpu) = (map(min, zip(*took[name], strict=True)) for name in took)
    work = 2 * len(seeds) * rows.numel() / 1e9
    return {"images": len(rows), "queries": len(seeds), "threads": torch.get_num_threads(), "search_seconds": search,
            "product_seconds": product, "share": product / search, "search_cpu": search_cpu,
            "product_cpu": product_cpu, "share_cpu": product_cpu / search_cpu,
            "product_gflop_a_cpu_second": work / product_cpu}  # fmt: skip


def one_refresh(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Build an index, measure its recall, search a sample of seeds."""
    world, embeddings = _open(arguments)
    config = IndexConfig(
        factory=arguments.factory, nprobe=arguments.nprobe, nprobe_max=4096, recall_sample=arguments.sample,
        memory_gb=1e3,
    )  # fmt: skip
    placement = place(config, len(embeddings), embeddings.dim, world.size)
    placement = Placement(arguments.sharded, placement.bytes, placement.cells)
    clock, cpu = Clock(), {}
    with GlobalIndex(embeddings, config, placement, backend="auto", world=world, seed=0) as index:
        cpu["build_cpu"] = clock.lap()[1]
        index.guard(0, 9)
        cpu["guard_cpu"] = clock.lap()[1]
        seeds = np.random.default_rng(1).permutation(len(embeddings))[: arguments.seeds]
        digest, facts = _sha256(index.neighbours(seeds, arguments.depth)), index.facts
        cpu["search_cpu"] = clock.lap()[1]
    disconnect(world)
    found = {"ranks": world.size, "images": len(embeddings), "seeds": len(seeds), "sha256": digest, **facts, **cpu}
    return found if world.is_first else None


def rows_around(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the embeddings of the neighbours of a batch, as each step does with manifold.scope gallery."""
    world, embeddings = _open(arguments)
    random, n, k = np.random.default_rng(0), len(embeddings), 10
    nearest = NearestImages(embeddings, random.integers(0, n, (n, k)))
    clock = Clock()
    for _ in range(arguments.batches):
        found = nearest.around(random.integers(0, n, 100))
    wall, cpu = (1e3 * each / arguments.batches for each in clock.lap())
    disconnect(world)
    return {"images": n, "bytes_read": found.size * embeddings.take(np.zeros(1, int)).itemsize,
            "table_bytes": nearest.table.nbytes, "milliseconds": wall, "cpu_milliseconds": cpu}  # fmt: skip


def simulated_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write, hash, map and check a plan whose neighbours are made up: those of an image are the next ids, shuffled."""
    n, batch = arguments.images, BatchConfig(groups=10, group_size=10, cover=arguments.cover)
    searched = [0, 0.0]

    def neighbours(seeds: np.ndarray, depth: int) -> np.ndarray:
        started = time.perf_counter()
        # Images 97 apart belong together; a neighbourhood overlaps those of the images around.
        ids = (seeds[:, None] + 97 * np.arange(1, depth + 1)) % n
        searched[0] += len(seeds)
        searched[1] += time.perf_counter() - started
        return ids

    shape = (plan_steps(n, batch), batch.groups, batch.group_size)
    times = [time.perf_counter()]
    digest = save_blocks(arguments.out, shape, plan_blocks(n, batch=batch, seed=0, epoch=0, neighbours=neighbours))
    times.append(time.perf_counter())
    plan = load_plan(arguments.out, digest)
    times.append(time.perf_counter())
    share = coverage(plan, n)
    times.append(time.perf_counter())
    return {"images": n, "cover": arguments.cover, "shape": plan.shape, "bytes": arguments.out.stat().st_size,
            "write_seconds": times[1] - times[0], "made_up_neighbours_seconds": searched[1], "searched": searched[0],
            "load_seconds": times[2] - times[1], "coverage_seconds": times[3] - times[2], "coverage": share,
            "images_per_second": plan.size / (times[1] - times[0]), "sha256": digest[:16]}  # fmt: skip


class Clock:
    """Seconds on the wall and of all threads of this process, since the last lap: cores may be shared."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def lap(self) -> list[float]:
        now = time.perf_counter(), time.process_time()
        passed = [new - old for new, old in zip(now, self._last, strict=True)]
        self._last = now
        return passed


def _sha256(ids: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i8").data).hexdigest()[:16]


def _open(arguments: argparse.Namespace) -> tuple[World, Embeddings]:
    world = connect(RuntimeConfig(device="cpu", threads=arguments.threads))
    return world, Embeddings(sorted(arguments.embeddings.glob("shard_*.npy")))


if __name__ == "__main__":
    main()

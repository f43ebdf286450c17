"""Peak memory of a rank for one training step against the number of proxies P and of ranks W, as a Markdown table.

    python -m benchmarks.proxies_memory --proxies 0 10000 100000 1000000 --ranks 1 2 4

Forward, backward and an Adam step of the method on 200 points, D = 128, M = 3, without a backbone, on the CPU. Each
rank is a process of its own, and its peak is the operating system's. This process stays small: imports are late because
the peak of a parent is inherited by its children.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import environments, machine

POINTS, DIM, MANIFOLD_DIM = 200, 128, 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", type=int, nargs="+", default=[0, 10_000, 100_000, 1_000_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        print(json.dumps(one_step(arguments.proxies[0])))
        return
    print(f"`python -m benchmarks.proxies_memory {' '.join(sys.argv[1:])}` on {machine()}\n")
    print("| P | W | peak per rank, GB | above P = 0, GB | parameters, gradients, moments, GB | step, s |")
    print("|---|---|---|---|---|---|")
    floor: dict[int, float] = {}
    for count in sorted({0, *arguments.proxies}):
        for size in arguments.ranks:
            peaks, seconds, version = measure(count, size)
            floor.setdefault(size, max(peaks))
            kept = 4 * 4 * -(-count // size) * DIM * (1 + MANIFOLD_DIM) / 1e9
            print(
                f"| {count:,} | {size} | {max(peaks):.2f} | {max(peaks) - floor[size]:.2f} | {kept:.2f} "
                f"| {seconds:.1f} |",
                flush=True,
            )
    print(f"\ntorch {version}, Python {platform.python_version()}")


def measure(count: int, size: int) -> tuple[list[float], float, str]:
    """Peaks of the ranks in GB, seconds of the slowest, and the version of torch."""
    common = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, __file__, "--proxies", str(count)]
    ranks = [
        subprocess.Popen(command, env=common | environment, stdout=subprocess.PIPE)
        for environment in environments(size)
    ]
    answers = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"P = {count:,}, W = {size}: a rank failed")
    results = [json.loads(answer) for answer in answers]
    return [r["peak"] for r in results], max(r["seconds"] for r in results), results[0]["torch"]


def one_step(count: int) -> dict[str, float | str]:
    """What this rank needed."""
    import resource

    import torch
    from torch import nn

    from dist_plm.config import Config, OptimiserConfig, ProxiesConfig, RuntimeConfig
    from dist_plm.distributed.connection import connect
    from dist_plm.methods import Points, build_method
    from dist_plm.parallel.optimiser import begun, build_updates

    world = connect(RuntimeConfig(device="cpu", threads=1))
    torch.manual_seed(world.rank)
    method = build_method("plm", Config(proxies=ProxiesConfig(count=count)), world)
    head = nn.Linear(DIM, DIM)
    updates = build_updates([], head.parameters(), method.parameters(), OptimiserConfig(), method_lr_scale=100.0)
    updates.set_learning_rate(5e-4)
    rules = [begun(updates.network), *([updates.method] if updates.method else [])]  # no proxies, no rule of their own
    z, x = (nn.functional.normalize(torch.randn(POINTS // world.size, DIM) + 0.3) for _ in range(2))
    started = time.monotonic()
    method(Points(head(z), x, views=2)).share.backward()
    for rule in rules:
        rule.step()
    seconds = time.monotonic() - started
    world.barrier("the end")
    # ru_maxrss is in KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"peak": peak, "seconds": seconds, "torch": torch.__version__}


if __name__ == "__main__":
    main()

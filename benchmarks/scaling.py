"""How the method's time and memory of a step grow with B, k, P, M, D and W: measured, with fitted exponents. Markdown.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --whole bvlc_googlenet --size 64 --points 4096 --proxies 10000 --pieces 32

Forward, backward and an Adam step of rho and Psi on random unit vectors, without a network, one thread a rank, each
measurement in a process of its own. Time is CPU time; memory is the peak above what the process held before. One size
at a time varies around the others' BASE. With --whole one step of the whole learner is measured instead: networks,
momentum encoder, method, update.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import normalize

from benchmarks.common import machine, on_ranks
from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, OptimiserConfig, ProxiesConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from dist_plm.parallel.optimiser import begun, build_updates
from dist_plm.training.learner import Learner, phases

BASE = {"B": 800, "k": 10, "P": 1000, "M": 3, "D": 128, "W": 1}
VARIED = {
    "B": [100, 200, 400, 800, 1600],
    "k": [5, 10, 20, 40],
    "P": [500, 2000, 8000, 16_000],
    "M": [1, 2, 4, 8],
    "D": [64, 128, 256, 512],
    "W": [1, 2, 4],
}
STEPS = 3


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vary", nargs="+", default=list(VARIED), choices=list(VARIED))
    parser.add_argument("--whole", default="", metavar="BACKBONE", help="one step with this network instead")
    parser.add_argument("--size", type=int, default=112, help="of a view of --whole, pixels")
    parser.add_argument("--points", type=int, default=4096, help="of --whole")
    parser.add_argument("--proxies", type=int, default=10_000, help="of --whole")
    parser.add_argument("--pieces", type=int, default=16, help="micro-batches of --whole")
    options = parser.parse_args()
    print(f"`python -m benchmarks.scaling {' '.join(sys.argv[1:])}` on {machine()}, torch {torch.__version__}\n")
    if options.whole:
        most, seconds = whole(options.whole, options.size, options.points, options.proxies, options.pieces)
        print(f"{options.whole} at {options.size} px, {options.points:,} points in {options.pieces} pieces, P = "
              f"{options.proxies:,}: peak {most / 1e9:.2f} GB above the start, {seconds:.0f} s CPU")  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"Around {', '.join(f'{name} = {value:,}' for name, value in BASE.items())}.\n")
        print("| varied | value: ms (GB per rank) | time grows as | memory grows as |")
        print("|---|---|---|---|")
        for name in options.vary:
            print(row(name, Path(folder)), flush=True)


def row(name: str, folder: Path) -> str:
    """Measurements of one size and their exponents."""
    values, times, peaks = VARIED[name], [], []
    for value in values:
        sizes = BASE | {name: value}
        measured = on_ranks(sizes["W"], folder, method_step, sizes)
        peaks.append(max(peak for peak, _ in measured))
        times.append(max(seconds for _, seconds in measured))
    cells = (f"{v:,}: {1e3 * t:,.0f} ({p / 1e9:.3f})" for v, t, p in zip(values, times, peaks, strict=True))
    fits = [f"{name}^{exponent(values, each):.2f}, at the end ^{exponent(values[-2:], each[-2:]):.2f}"
            for each in (times, peaks)]  # fmt: skip
    return f"| {name} | {', '.join(cells)} | {fits[0]} | {fits[1]} |"


def exponent(values: list[int], measured: list[float]) -> float:
    """Slope of a straight line through the logarithms, least squares."""
    x, y = ([math.log(max(each, 1e-12)) for each in side] for side in (values, measured))
    across, up = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - across) * (b - up) for a, b in zip(x, y, strict=True))
    return over / sum((a - across) ** 2 for a in x)


def method_step(world: World, sizes: dict[str, int]) -> tuple[float, float]:
    """Peak bytes above the start and CPU seconds of a step of this rank."""
    config = Config(
        model=ModelConfig(dim=sizes["D"]),
        manifold=ManifoldConfig(dim=sizes["M"], k=sizes["k"]),
        proxies=ProxiesConfig(count=sizes["P"]),
    )
    random = torch.Generator().manual_seed(world.rank)
    held = reset_peak()
    method = build_method("plm", config, world)
    updates = build_updates([], [torch.nn.Parameter(torch.zeros(1))], method.parameters(), OptimiserConfig(),
                            method_lr_scale=100.0)  # fmt: skip
    assert updates.method is not None
    rule = begun(updates.method)
    count, seconds = sizes["B"] // world.size, []
    centres = torch.randn(16, sizes["D"], generator=random)[torch.arange(count) % 16]
    z, x = (normalize(centres + torch.randn(count, sizes["D"], generator=random)) for _ in range(2))
    z.requires_grad_()
    for _ in range(1 + STEPS):
        began = time.process_time()
        method(Points(z, x, views=2)).share.backward()
        rule.step()
        rule.zero_grad()
        seconds.append(time.process_time() - began)
    return peak() - held, median(seconds[1:])


def whole(backbone: str, size: int, points: int, proxies: int, pieces: int) -> tuple[float, float]:
    """The same of one step of the whole learner, the first of its process."""
    batch = BatchConfig(groups=points // 4, group_size=2, micro_batches=pieces)
    config = Config(model=ModelConfig(backbone=backbone), batch=batch, proxies=ProxiesConfig(count=proxies))
    torch.set_num_threads(1)
    held, began = reset_peak(), time.process_time()
    learner = Learner(config, World(), phases(config)[-1])
    views = torch.randint(0, 256, (points, 3, size, size), dtype=torch.uint8)
    learner.step(Batch(0, torch.arange(points // 2), views), 0, 10**6)
    return peak() - held, time.process_time() - began


def reset_peak() -> float:
    """Forget the peak so far (Linux); bytes held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """Most bytes held since."""
    return _status("VmHWM")


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * float(line.split()[1])


if __name__ == "__main__":
    main()

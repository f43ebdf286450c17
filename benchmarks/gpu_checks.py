"""What only a GPU can show, each check in a line of Markdown; without a GPU the same lines run on the CPU.

    python -m benchmarks.gpu_checks

1. The selection's Triton kernel against its torch form: the same members, and milliseconds of both.
2. Collectives of a world of one on NCCL (gloo on the CPU), with the gradient of the gather.
3. FAISS and torch searching in one process, in turns: the same neighbours, and milliseconds of both.
4. JPEGs decoded by nvJPEG in batches, beside one thread of the loader's decoder.
5. Steps with the momentum encoder and the neighbourhoods on a second stream: the losses of steps in turn, and seconds.
"""

import argparse
import io
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torchvision.io import decode_jpeg

from dist_plm.config import BatchConfig, Config, ModelConfig
from dist_plm.data.decode import decode
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World, _GatherRows
from dist_plm.index.flat import nearest
from dist_plm.manifold import selection
from dist_plm.parallel.side_stream import SideStream
from dist_plm.telemetry.parts import Stopwatch
from dist_plm.training.learner import Learner, phases

REPEATS = 20
OUTCOMES = {True: "ok", False: "FAILED", None: "not checked"}


def main() -> int:
    """Run all checks; status 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[200, 800, 4096], help="of the selection")
    parser.add_argument("--rows", type=int, default=100_000, help="of the gallery")
    parser.add_argument("--queries", type=int, default=4_096)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"`python -m benchmarks.gpu_checks {' '.join(sys.argv[1:])}`: {name}, torch {torch.__version__}\n")
    checks: list[Callable[[], tuple[bool | None, str]]] = [
        *(partial(kernel, count, device) for count in options.points),
        partial(collectives, device),
        partial(searches, options.rows, options.queries, device),
        partial(decoding, device),
        partial(second_stream, device),
    ]
    failed = 0
    for check in checks:
        passed, line = check()
        failed += passed is False
        print(f"- {OUTCOMES[passed]}: {line}", flush=True)
    return min(failed, 1)


def milliseconds(act: Callable[[], object], device: torch.device) -> float:
    """Median over REPEATS, after as many to warm up as compile and choose kernels."""
    times = []
    for _ in range(3 + REPEATS):
        clock = Stopwatch(device)
        act()
        times.append(1e3 * clock.whole)
    return median(times[3:])


def kernel(count: int, device: torch.device) -> tuple[bool | None, str]:
    """k = 10, m = 3, D = 128, points near planes."""
    random = torch.Generator().manual_seed(0)
    plane = torch.randn(count, 3, 128, generator=random)
    v = torch.randn(count, 11, 3, generator=random) @ plane
    v += torch.rand(count, 11, 1, generator=random).pow(3) * torch.randn(count, 11, 128, generator=random)
    v = (0.1 * v).to(device)
    v[:, 0] = 0
    gram, noise = v @ v.mT, torch.full((count, 1), 1e-10, device=device)
    settings: dict[str, Any] = {"dim": 3, "centre": "anchor", "allowed": 0.1}
    reference = selection.select_batched(gram, noise, **settings)
    if device.type == "cpu" or selection._kernel() is None:
        missing = None if device.type == "cpu" else False
        return missing, f"selection of {count} points: its kernel needs a GPU, Triton and a C compiler"
    chosen = selection.select(gram, noise, **settings)
    same = (reference.members == chosen.members).all(1)
    off = [_span(each)[same] / gram.diagonal(dim1=1, dim2=2).amax(1)[same, None, None] for each in (reference, chosen)]
    most = float((off[0] - off[1]).abs().max())
    times = [milliseconds(partial(act, gram, noise, **settings), device)
             for act in (selection.select_batched, selection.select)]  # fmt: skip
    line = (f"selection of {count} points: torch {times[0]:.2f} ms, as dispatched {times[1]:.2f} ms; "
            f"members alike for {100 * same.float().mean():.2f} %, spans off by {most:.1e}")  # fmt: skip
    return bool(same.float().mean() > 0.999) and most <= 1e-5, line


def _span(found: selection.Selection) -> torch.Tensor:
    return (found.vectors * found.eigenvalues[:, None]) @ found.vectors.mT


def collectives(device: torch.device) -> tuple[bool, str]:
    """All-gather, reduce-scatter, all-reduce and DDP on a process group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    own = torch.device("cuda", 0) if device.type == "cuda" else None
    dist.init_process_group(
        backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60), device_id=own
    )
    rows = torch.randn(200, 128, device=device, requires_grad=True)
    gathered = _GatherRows.apply(rows, 1)
    gathered.square().sum().backward()
    total = rows.detach().clone()
    dist.all_reduce(total)
    layer = torch.nn.Linear(128, 8, device=device)
    DistributedDataParallel(layer)(rows.detach()).sum().backward()
    expected = rows.detach().sum(0).expand(8, -1)
    alike = [(gathered, rows), (rows.grad, 2 * rows), (total, rows), (layer.weight.grad, expected)]
    passed = all(torch.allclose(each.detach(), other.detach(), atol=1e-3) for each, other in alike)
    time = milliseconds(lambda: dist.all_reduce(total), device)
    dist.destroy_process_group()
    return passed, f"{backend} at W = 1: gather, its gradient, all-reduce ({time:.3f} ms of 100 kB), DDP"


def searches(rows: int, queries: int, device: torch.device) -> tuple[bool, str]:
    """Both backends on the same gallery; D = 128, 10 neighbours."""
    random = torch.Generator().manual_seed(0)
    gallery = normalize(torch.randn(rows, 128, generator=random)).to(device)
    own = torch.arange(queries)

    backends: tuple[Literal["faiss", "torch"], ...] = ("faiss", "torch")

    def search(backend: Literal["faiss", "torch"]) -> tuple:
        return nearest(gallery[:queries], gallery, 10, exclude=own, backend=backend, device=device)

    found, times = {}, {}
    for _ in range(3):
        for backend in backends:
            clock = Stopwatch(device)
            found[backend] = search(backend)[0]
            times[backend] = 1e3 * clock.whole
    alike = bool((found["faiss"] == found["torch"]).all())
    told = ", ".join(f"{backend} {time:,.0f} ms" for backend, time in times.items())
    return alike, f"search of {queries:,} in {rows:,}, both in one process: {told}; neighbours alike: {alike}"


def decoding(device: torch.device) -> tuple[bool | None, str]:
    """64 JPEGs of 256 x 341 pixels, smooth noise: nvJPEG repeats halved chroma, PIL interpolates (1.4 levels here)."""
    random, files = np.random.default_rng(0), []
    for _ in range(64):
        drawn = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((341, 256))
        drawn.save(file := io.BytesIO(), "JPEG", quality=75)
        files.append(file.getvalue())
    exact = [np.asarray(decode(data)) for data in files]
    alone = 1e3 * len(files) / milliseconds(lambda: [decode(data) for data in files], torch.device("cpu"))
    told = f"decoding: one thread {alone:,.0f} images/s"
    if device.type == "cpu":
        return None, f"{told}; nvJPEG needs a GPU"
    held = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    found = decode_jpeg(held, device=device)
    rate = 1e3 * len(files) / milliseconds(lambda: decode_jpeg(held, device=device), device)
    off = [np.abs(a.permute(1, 2, 0).cpu().numpy().astype(int) - b).mean() for a, b in zip(found, exact, strict=True)]
    return bool(max(off) < 3), f"{told}, nvJPEG in batches of 64 {rate:,.0f}; off by {max(off):.2f} of 255 levels"


def second_stream(device: torch.device) -> tuple[bool | None, str]:
    """Twelve steps on 100 images x 2 views, others each time, with teachers that are the student of the step before, so
    that anything read too early shows; nothing waits for the device on the way. As they are, and in turn."""
    on_gpu = device.type == "cuda"
    model = ModelConfig(backbone="bvlc_googlenet" if on_gpu else "small", momentum=0.0)
    config, size = Config(model=model, batch=BatchConfig(groups=10, group_size=10)), 227 if on_gpu else 16
    random, losses, times = torch.Generator().manual_seed(0), [], []
    drawn = [torch.randint(0, 256, (200, 3, size, size), dtype=torch.uint8, generator=random) for _ in range(12)]
    batches = [Batch(step, torch.arange(100), views.to(device)) for step, views in enumerate(drawn)]
    for side_stream in (SideStream(device), SideStream(torch.device("cpu"))):
        learner = Learner(config, World(device=device), phases(config)[0])
        learner.side_stream = side_stream
        shares = [learner.step(batch, step, 12).loss.share.detach() for step, batch in enumerate(batches)]
        losses.append(torch.stack(shares).cpu())
        times.append(milliseconds(partial(learner.step, batches[0], 0, 12), device))
    # Convolutions of a GPU add up in an order of their own: two runs alike differ by 1e-6 or so.
    alike = torch.allclose(losses[0], losses[1], rtol=1e-4)
    told = f"{times[0]:.1f} ms a step, in turn {times[1]:.1f} ms; losses alike: {alike}"
    if not on_gpu:
        return None if alike else False, f"second stream: {told} (the CPU has none: both are in turn)"
    return alike, f"second stream: {told}"


if __name__ == "__main__":
    sys.exit(main())

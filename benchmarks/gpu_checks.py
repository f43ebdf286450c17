"""What only a GPU can show of kernels and libraries, one check a call; without a GPU the same lines run on the CPU.

    python -m benchmarks.gpu_checks CHECK

machine         card, driver, versions of libraries, commit
kernel          the selection's Triton kernel against its torch form: the same members, and milliseconds of both
searches        torch's search against exact distances, and faiss beside it in one process where it can be imported
decoding        JPEGs decoded by nvJPEG in batches, beside one thread of the loader's decoder
second_stream   steps with momentum encoder and neighbourhoods on a second stream, against steps in turn
collectives     of a world of one on NCCL (gloo on the CPU), with the gradient of the gather
"""

import io
import platform
import subprocess
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_common import FAILED, NOT_CHECKED, OK, Place, main, milliseconds, outcome
from dist_plm.bench.setting import machine as facts_of
from dist_plm.config import BatchConfig, Config, ModelConfig
from dist_plm.distributed.device import gpu_evidence
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World, _GatherRows
from dist_plm.manifold import selection
from dist_plm.telemetry.parts import Stopwatch

Lines = list[tuple[int, str]]
LIBRARIES = ("torchvision", "triton", "faiss-gpu", "faiss-cpu", "deepspeed", "timm", "numpy", "pillow")


def machine(place: Place) -> Lines:
    """What the results depend on."""
    facts = facts_of(World(device=place.device))
    lines = [f"CPU: {facts['cpu']}, {facts['cores']} cores", f"GPU: {facts['gpu']}"]
    if place.on_gpu:
        card = torch.cuda.get_device_properties(place.device)
        lines[1] += f" x {torch.cuda.device_count()}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}"
        lines.append(gpu_evidence() or "NVIDIA driver: version unknown")
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if place.on_gpu else "unused"
    cudnn = torch.backends.cudnn.version() if place.on_gpu else "unused"
    lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}, NCCL {nccl}")
    installed = {name: _version(name) for name in LIBRARIES}
    lines.append(", ".join(f"{name} {number}" for name, number in installed.items() if number))
    missing = [name for name, number in installed.items() if not number and not name.startswith("faiss")]
    missing += [] if installed["faiss-gpu"] or installed["faiss-cpu"] else ["faiss"]
    lines.append(f"not installed: {', '.join(missing)}" if missing else "all libraries are installed")
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = git.stdout.strip() or "unknown (no git checkout)"
    lines.append(f"Python {platform.python_version()}, commit {commit}")
    return [(OK, line) for line in lines]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def kernel(place: Place) -> Lines:
    """k = 10 and 20 (N = 16 and 32), m = 3, D = 128, points near planes."""
    counts = [50] if place.small else [200, 800, 4096]
    return [_kernel(place, count, k) for k in (10, 20) for count in counts]


def _kernel(place: Place, count: int, k: int) -> tuple[int, str]:
    random, device = torch.Generator().manual_seed(0), place.device
    plane = torch.randn(count, 3, 128, generator=random)
    v = torch.randn(count, k + 1, 3, generator=random) @ plane
    v += torch.rand(count, k + 1, 1, generator=random).pow(3) * torch.randn(count, k + 1, 128, generator=random)
    v = (0.1 * v).to(device)
    v[:, 0] = 0
    gram, noise = v @ v.mT, torch.full((count, 1), 1e-10, device=device)
    settings: dict[str, Any] = {"dim": 3, "centre": "anchor", "allowed": 0.1}
    reference = selection.select_batched(gram, noise, **settings)
    what = f"selection of {count} points among {k}"
    if not place.on_gpu:
        return NOT_CHECKED, f"{what}: its kernel needs a GPU"
    if selection._kernel(device) is None:
        return FAILED, f"{what}: the kernel can't be built here"
    chosen = selection.select(gram, noise, **settings)
    same = (reference.members == chosen.members).all(1)
    off = [_span(each)[same] / gram.diagonal(dim1=1, dim2=2).amax(1)[same, None, None] for each in (reference, chosen)]
    most = float((off[0] - off[1]).abs().max())
    times = [milliseconds(partial(act, gram, noise, **settings), device)
             for act in (selection.select_batched, selection.select)]  # fmt: skip
    line = (f"{what}: torch {times[0]:.2f} ms, kernel {times[1]:.2f} ms; "
            f"members alike for {100 * same.float().mean():.2f} %, spans off by {most:.1e}")  # fmt: skip
    return outcome(bool(same.float().mean() > 0.999) and most <= 1e-5), line


def _span(found: selection.Selection) -> torch.Tensor:
    return (found.vectors * found.eigenvalues[:, None]) @ found.vectors.mT


def searches(place: Place) -> Lines:
    """Ten neighbours, D = 128; faiss and torch in turns on the same gallery."""
    from dist_plm.index.faiss_library import find_faiss, missing_faiss
    from dist_plm.index.flat import nearest

    rows, queries, checked = (3_000, 300, 50) if place.small else (100_000, 4_096, 200)
    random, own = torch.Generator().manual_seed(0), torch.arange(queries)
    gallery = normalize(torch.randn(rows, 128, generator=random)).to(place.device)

    def search(backend: Literal["faiss", "torch"]) -> torch.Tensor:
        found = nearest(gallery[:queries], gallery, 10, exclude=own, backend=backend, device=place.device)
        return torch.from_numpy(found[0])

    exact = torch.cdist(gallery[:checked].double(), gallery.double()).cpu()
    exact[own[:checked], own[:checked]] = torch.inf
    expected = exact.topk(10, largest=False).indices
    backends: tuple[Literal["faiss", "torch"], ...] = ("torch", "faiss") if find_faiss() else ("torch",)
    found, times = {}, {}
    for _ in range(3):
        for backend in backends:
            clock = Stopwatch(place.device)
            found[backend] = search(backend)
            times[backend] = 1e3 * clock.whole
    right = bool((found["torch"][:checked] == expected).all())
    told = f"torch: {queries:,} queries in {rows:,} rows, {times['torch']:,.0f} ms; the exact neighbours: {right}"
    lines = [(outcome(right), told)]
    if "faiss" not in found:
        return [*lines, (NOT_CHECKED, f"faiss beside torch: faiss is {missing_faiss()}")]
    alike = bool((found["faiss"] == found["torch"]).all())
    return [*lines, (outcome(alike), f"faiss in the same process: {times['faiss']:,.0f} ms; as torch: {alike}")]


def decoding(place: Place) -> Lines:
    """64 JPEGs of 256 x 341 pixels, smooth noise: nvJPEG repeats halved chroma, PIL interpolates (1.4 levels here)."""
    from torchvision.io import decode_jpeg

    from dist_plm.data.decode import decode

    random, files = np.random.default_rng(0), []
    for _ in range(64):
        drawn = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((341, 256))
        drawn.save(file := io.BytesIO(), "JPEG", quality=75)
        files.append(file.getvalue())
    exact = [np.asarray(decode(data)) for data in files]
    alone = 1e3 * len(files) / milliseconds(lambda: [decode(data) for data in files], torch.device("cpu"), 5)
    told = f"decoding: one thread {alone:,.0f} images/s"
    if not place.on_gpu:
        return [(NOT_CHECKED, f"{told}; nvJPEG needs a GPU")]
    held = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    found = decode_jpeg(held, device=place.device)
    rate = 1e3 * len(files) / milliseconds(lambda: decode_jpeg(held, device=place.device), place.device)
    off = [np.abs(a.permute(1, 2, 0).cpu().numpy().astype(int) - b).mean() for a, b in zip(found, exact, strict=True)]
    most = f"off by {max(off):.2f} of 255 levels at most"
    return [(outcome(max(off) < 3), f"{told}, nvJPEG in batches of 64 {rate:,.0f}; {most}")]


def second_stream(place: Place) -> Lines:
    """Twelve steps on 100 images x 2 views, others each time, with teachers that are the student of the step before, so
    that anything read too early shows; nothing waits for the device on the way.

    Kernels of a GPU may add up in an order of their own, and steps amplify that: runs in turn differ too. The largest
    difference between three of them is the noise floor, and the second stream may differ from the nearest of them by
    four times as much."""
    from dist_plm.data.loader import Batch
    from dist_plm.parallel.side_stream import SideStream
    from dist_plm.training.learner import Learner, phases

    model = ModelConfig(backbone="bvlc_googlenet" if place.on_gpu else "small", momentum=0.0)
    config, size = Config(model=model, batch=BatchConfig(groups=10, group_size=10)), 227 if place.on_gpu else 16
    random, losses, times = torch.Generator().manual_seed(0), [], []
    drawn = [torch.randint(0, 256, (200, 3, size, size), dtype=torch.uint8, generator=random) for _ in range(12)]
    batches = [Batch(step, torch.arange(100), views.to(place.device)) for step, views in enumerate(drawn)]
    for device in (place.device, *3 * (torch.device("cpu"),)):  # of the second stream; none in three runs
        learner = Learner(config, World(device=place.device), phases(config)[0])
        learner.side_stream = SideStream(device)
        shares = [learner.step(batch, step, 12).loss.share.detach() for step, batch in enumerate(batches)]
        losses.append(torch.stack(shares).cpu().double())
        times.append(milliseconds(partial(learner.step, batches[0], 0, 12), place.device, 5))
    beside, *turns = losses
    floor = max(_apart(a, b) for a, b in combinations(turns, 2))
    off = min(_apart(beside, turn) for turn in turns)
    told = (
        f"second stream: {times[0]:.1f} ms a step, in turn {times[1]:.1f} ms; losses off by {off:.1e}, three runs in "
    )
    line = f"{told}turn by {floor:.1e}"
    if not torch.stack(losses).isfinite().all() or off > 4 * floor + 1e-7:
        return [(FAILED, line)]
    return [(OK, line) if place.on_gpu else (NOT_CHECKED, f"{line} (a CPU has no second stream)")]


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest relative difference of two courses of the loss; infinite where one is not a number."""
    return float(((a - b) / b).abs().nan_to_num(torch.inf).max())


def collectives(place: Place) -> Lines:
    """All-gather, reduce-scatter, all-reduce and DDP on a process group of this process alone."""
    device, backend = place.device, "nccl" if place.on_gpu else "gloo"
    own = device if place.on_gpu else None
    dist.init_process_group(
        backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60), device_id=own
    )
    rows = torch.randn(200, 128, device=device, requires_grad=True)
    gathered = _GatherRows.apply(rows, Shares((200,)))
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
    return [(outcome(passed), f"{backend} at W = 1: gather, its gradient, all-reduce ({time:.3f} ms of 100 kB), DDP")]


CHECKS = {each.__name__: each for each in (machine, kernel, searches, decoding, second_stream, collectives)}

if __name__ == "__main__":
    main(CHECKS, __doc__)

"""A few forward and backward passes on this machine: the rates and the activation memory that `--plan` prints."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.data.views import train_view
from dist_plm.distributed.shares import Shares, batch_shares
from dist_plm.distributed.world import World
from dist_plm.manifold.precision import ieee_products
from dist_plm.methods import Points
from dist_plm.model.split import Joined
from dist_plm.telemetry.progress import GB, peak_memory
from dist_plm.training.auto_precision import resolve_precision
from dist_plm.training.learner import Learner, phases

MOST_POINTS = 1_024  # largest batch for which the loss is measured
POINTS = {"cpu": 16, "cuda": 128}  # maximum number of views in a measured pass
FEW = 4  # views of the small step, whose peak is subtracted from that of a large one
TRANSIENT = 1.5  # peak memory / saved activations, if the peak can't be measured; GoogLeNet at 112 px: 1.47
SECONDS, PASSES = 2.0, 3  # minimum duration and repeats of a measurement


@dataclass(frozen=True)
class Rehearsal:
    """Measurements of one rank.

    Attributes:
        train: Images/s in steps: forward and backward pass of the student, forward pass of the momentum encoder.
        embed: Images/s with one view each, forward pass only, by the whole network.
        decode: Images/s read from the shards, decoded and cropped to `views.count` views.
        activations: Bytes per view at the peak of a step: saved activations, and gradients and workspace of the current
            layer.
        process: Bytes independent of the batch size: Python, libraries, the networks with their gradients.
        points: Views in the measured passes.
        device: cpu or cuda.
        cached: Whether steps read cached features instead of decoding images.
        loss: Seconds for the loss of a global batch in one process, forward and backward pass.
    """

    train: float
    embed: float
    decode: float
    activations: float
    process: float
    points: int
    device: str
    cached: bool
    loss: float = 0.0

    @property
    def embed_rate(self) -> float:
        """Images/s with one view each, including reading and decoding."""
        return 1 / (1 / self.embed + 1 / self.decode) if self.device == "cpu" else min(self.embed, self.decode)

    @property
    def step_rate(self) -> float:
        """Images/s of a step including decoding, without the loss; on a GPU decoding overlaps with the step."""
        if self.cached:
            return self.train
        if self.device == "cpu":
            return 1 / (1 / self.train + 1 / self.decode)
        return min(self.train, self.decode)


def rehearse(config: Config, store: Store, world_size: int) -> Rehearsal:
    """Measure a single rank, in the configured precision, on images of the training split. Takes a few seconds.

    Weights are random: their values affect neither rate nor memory.
    """
    gpu = config.runtime.device != "cpu" and torch.cuda.is_available()
    world = World(device=torch.device("cuda" if gpu else "cpu"))
    config, _ = resolve_precision(config, world)
    runtime = replace(config.runtime, strategy="ddp", compile=False)
    config = replace(config, model=replace(config.model, weights=""), runtime=runtime)
    count = config.views.count
    images = max(1, min(batch_shares(config, world_size).largest, POINTS[world.device.type] // count, len(store)))
    views, decode = _decoded(store, config, images)
    learner = Learner(config, world, phases(config)[0], len(store.classes))
    views = views.to(world.device)
    network, passes = learner.whole("teacher"), _Passes(learner, views)
    process, view = passes.peak_bytes(world)
    if learner.frozen is not None and config.views.cached:
        network = Joined(learner.frozen, network)
    embed = learner.embed_with(network)
    return Rehearsal(
        train=images / _seconds(passes.step, world),
        embed=len(views) / _seconds(lambda: embed(views), world),
        decode=decode,
        activations=view,
        process=process,
        points=len(views),
        device=world.device.type,
        cached=bool(config.views.cached),
        loss=_loss_seconds(learner),
    )


class _Passes:
    """The passes of a step over some views."""

    def __init__(self, learner: Learner, views: Tensor) -> None:
        self._learner = learner
        frozen = learner.frozen if learner.config.views.cached else None
        with torch.no_grad():
            self.entering = views if frozen is None else frozen(views)
        learner.student.train()

    def step(self, views: int | None = None) -> None:
        """Forward and backward pass of the student, forward pass of the momentum encoder, on the first `views`."""
        strategy, learner = self._learner.strategy, self._learner
        strategy.embed_constant(learner.teacher, self._through(views))
        self._embedded(views).sum().backward()
        learner.student.zero_grad(set_to_none=True)

    def peak_bytes(self, world: World) -> tuple[float, float]:
        """Peak memory of a step: bytes independent of the batch size, and bytes per view."""
        count, kept = len(self.entering), self.kept_bytes() / len(self.entering)
        try:
            # The difference between a large and a small step gives the memory per view, without one-off allocations.
            peaks = [self._peak(views, world) for views in (FEW, count)]
        except (OSError, LookupError):  # not on Linux, or not permitted
            return peak_memory(world.device) * GB, TRANSIENT * kept
        if count < 2 * FEW:
            return peaks[0], TRANSIENT * kept
        view = max(kept, (peaks[1] - peaks[0]) / (count - FEW))
        return max(0.0, peaks[0] - FEW * view), view

    def _peak(self, views: int, world: World) -> float:
        """Peak memory in bytes during a step on the first `views`."""
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
            self.step(views)
            return torch.cuda.max_memory_allocated(world.device)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak: proc_pid_clear_refs(5)
        self.step(views)
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

    def kept_bytes(self) -> int:
        """Bytes of the distinct tensors that autograd keeps of the student's forward, without its parameters."""
        parameters = {parameter.untyped_storage().data_ptr() for parameter in self._learner.student.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            held = self._embedded()
        held.sum().backward()
        self._learner.student.zero_grad(set_to_none=True)
        return sum(kept.values())

    def _embedded(self, views: int | None = None) -> Tensor:
        with self._learner.strategy.autocast():
            return self._learner.student(self._through(views))

    def _through(self, views: int | None) -> Tensor:
        """Input of the trained part."""
        frozen, entering = self._learner.frozen, self.entering[:views]
        if frozen is None or self._learner.config.views.cached:
            return entering
        return self._learner.strategy.embed_constant(frozen, entering)


def _loss_seconds(learner: Learner) -> float:
    """Seconds of the method's loss on random embeddings of a global batch.

    0 for a method that groups images by class or cluster: its loss needs labels. Above MOST_POINTS the time of
    MOST_POINTS is scaled by the number of pairs.
    """
    config, method = learner.config, learner.method
    if method.batches in ("classes", "clusters"):
        return 0.0
    views, device, dtype = config.views.count, learner.world.device, learner.method_dtype
    images = min(config.batch.images, MOST_POINTS // views)
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, generator=draw), dim=-1).to(device, dtype)

    dim, shares = config.model.dim, Shares((images * views,))
    z, x = (drawn(images * views, dim + config.model.wide_dim) for _ in range(2))
    around = drawn(images, config.manifold.k, dim) if method.reads_gallery(config) else None
    ids = torch.arange(images, device=device).repeat_interleave(views)

    def step() -> None:
        leaf = z.detach().requires_grad_()
        prepared = method.prepare(x[:, :dim], shares, around) if method.reads_teacher else None
        points = Points(
            leaf[:, :dim], x[:, :dim], views, shares, ids,
            student_wide=leaf[:, dim:], teacher_wide=x[:, dim:], prepared=prepared,
        )  # fmt: skip
        method(points).share.backward()

    with ieee_products():
        return _seconds(step, learner.world) * (config.batch.images / images) ** 2


def _decoded(store: Store, config: Config, images: int) -> tuple[Tensor, float]:
    """Training views uint8 [images * count, 3, s, s] of images spread over the split, and the rate in images/s."""
    ids = np.linspace(0, len(store) - 1, images).astype(int).tolist()

    def cut(id: int) -> list[np.ndarray]:
        image = store.read_image(id)
        draw = {"config": config.views, "seed": config.seed, "epoch": 0, "sample": id}
        return [train_view(image, **draw, view=view) for view in range(config.views.count)]  # type: ignore[arg-type]

    cut(ids[0])
    started = time.monotonic()
    with ThreadPoolExecutor(config.data.workers) as pool:
        views = [view for image in pool.map(cut, ids) for view in image]
    return torch.from_numpy(np.stack(views)), images / max(time.monotonic() - started, 1e-6)


def _seconds(act: Callable[[], object], world: World) -> float:
    """Mean seconds of a call, after a warm-up call."""

    def timed(calls: int) -> float:
        _wait(world)
        started = time.monotonic()
        for _ in range(calls):
            act()
        _wait(world)
        return time.monotonic() - started

    timed(1)
    total, calls = 0.0, 0
    while calls < PASSES or (total < SECONDS and calls < 100):
        total, calls = total + timed(1), calls + 1
        if total > 5 * SECONDS:
            break
    return total / calls


def _wait(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)

"""A few forward and backward passes on this machine: the rates and the activation memory that `--plan` prints."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.data.views import train_view
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import World
from dist_plm.training.learner import Learner, phases
from dist_plm.training.precision import resolve_precision

POINTS = {"cpu": 16, "cuda": 128}  # views in a measured pass at most
SECONDS, PASSES = 2.0, 3  # a measurement ends when both are reached


@dataclass(frozen=True)
class Rehearsal:
    """What one rank was measured to do.

    Attributes:
        train: Images a second in steps: forward and backward of the student, forward of the momentum encoder.
        embed: Images a second of one view each, forward only, by the whole network.
        decode: Images a second read from the shards, decoded and cropped to `views.count` views.
        activations: Bytes that autograd keeps of one view for the backward.
        points: Views of the measured passes.
        device: cpu or cuda.
    """

    train: float
    embed: float
    decode: float
    activations: float
    points: int
    device: str

    @property
    def step_rate(self) -> float:
        """Images a second of a step with its decoding: one after the other on a CPU, at the same time beside a GPU."""
        if self.device == "cpu":
            return 1 / (1 / self.train + 1 / self.decode)
        return min(self.train, self.decode)


def rehearse(config: Config, store: Store, world_size: int) -> Rehearsal:
    """Measure one rank alone, in the configured precision, on images of the training split. Takes some seconds.

    Weights are drawn at random: their values change neither the rate nor the memory.
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
    activations = passes.kept_bytes() / len(views)
    embed = learner.embed_with(network)
    pixels = views if not config.views.cached else passes.entering
    return Rehearsal(
        train=images / _seconds(passes.step, world),
        embed=len(pixels) / _seconds(lambda: embed(pixels), world),
        decode=decode,
        activations=activations,
        points=len(views),
        device=world.device.type,
    )


class _Passes:
    """The passes of a step over some views."""

    def __init__(self, learner: Learner, views: Tensor) -> None:
        self._learner = learner
        frozen = learner.frozen if learner.config.views.cached else None
        with torch.no_grad():
            self.entering = views if frozen is None else frozen(views)
        learner.student.train()

    def step(self) -> None:
        """Student forward and backward, momentum encoder forward."""
        strategy, learner = self._learner.strategy, self._learner
        strategy.embed_constant(learner.teacher, self._through())
        self._embedded().sum().backward()
        learner.student.zero_grad(set_to_none=True)

    def kept_bytes(self) -> int:
        """Bytes of the distinct tensors that autograd keeps of the student's forward, without its parameters."""
        own = {parameter.untyped_storage().data_ptr() for parameter in self._learner.student.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            held = self._embedded()
        held.sum().backward()
        self._learner.student.zero_grad(set_to_none=True)
        return sum(kept.values())

    def _embedded(self) -> Tensor:
        with self._learner.strategy.autocast():
            return self._learner.student(self._through())

    def _through(self) -> Tensor:
        """What enters the trained part."""
        frozen = self._learner.frozen
        if frozen is None or self._learner.config.views.cached:
            return self.entering
        return self._learner.strategy.embed_constant(frozen, self.entering)


def _decoded(store: Store, config: Config, images: int) -> tuple[Tensor, float]:
    """Training views uint8 [images * count, 3, s, s] of images from all over the split, and images a second."""
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
    """Seconds of one call, the mean after a first one, which chooses kernels."""

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

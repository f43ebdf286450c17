"""Setting of a benchmark: configuration, ranks, images, machine."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dist_plm import __version__
from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, ViewsConfig
from dist_plm.data.loader import Batch
from dist_plm.data.opening import open_split
from dist_plm.data.store import Store
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.index.faiss_library import find_faiss
from dist_plm.index.proposals import gpu_search
from dist_plm.telemetry.parts import Stopwatch
from dist_plm.telemetry.progress import Display
from dist_plm.training.learner import Learner, phases

RATE = 1e-6  # of steps on noise
DRAWN_BATCHES, DRAWN_PIXELS = 4, 128  # images of the drawn data set, and their side
READ_IMAGES = 500  # of a data set, of which the first shards are read


@dataclass(frozen=True)
class Setting:
    """Setting of the measurements.

    Args:
        config: Sizes: batch, views, network, method; threads and workers.
        world: The ranks that were started.
        scratch: Temporary folder.
        shards: Data set for measurements with decoding; rendered glyphs if empty.
        repeats: Of every measurement.
        search: Gallery rows and queries of the search.
    """

    config: Config
    world: World
    scratch: Path
    shards: str
    repeats: int
    search: tuple[int, int]

    @property
    def on_gpu(self) -> bool:
        return self.world.device.type == "cuda"

    @property
    def steps(self) -> int:
        """Steps of one measurement: on a GPU several are queued, as in training."""
        return 10 if self.on_gpu else 1

    @property
    def own_images(self) -> int:
        """Images of a global batch on this rank."""
        return batch_shares(self.config, self.world.size).sizes[self.world.rank]

    @property
    def runs(self) -> int:
        """Repeats of measurements over whole epochs."""
        return (self.repeats + 1) // 2

    def clock(self) -> Stopwatch:
        """A clock that starts now."""
        return Stopwatch(self.world.device)

    def seconds(self, act: Callable[[], object]) -> float:
        """Duration of `act`, including queued work of the device."""
        clock = self.clock()
        act()
        return clock.whole

    def learner(self, config: Config | None = None, world: World | None = None) -> Learner:
        """A fresh learner in the phase of the method."""
        config = config or self.config
        # At the configured rate, training on noise leads to denormal numbers, which are slow on a CPU.
        config = replace(config, optimiser=replace(config.optimiser, lr=RATE))
        return Learner(config, world or self.world, phases(config)[-1])

    def batch(self, images: int) -> Batch:
        """`images` of noise on the device."""
        shape = (images * self.config.views.count, 3, self.config.views.size, self.config.views.size)
        views = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.world.device)
        return Batch(0, torch.arange(images, device=self.world.device), views)

    @cached_property
    def drawn(self) -> Path:
        """A data set of rendered glyphs, for whole runs."""
        return draw(self.scratch / "drawn", self.config, min(DRAWN_PIXELS, 2 * self.config.views.size))

    def store(self) -> Store:
        """The first shards of the training split, with READ_IMAGES images if there are so many."""
        data = replace(self.config.data, shards=self.shards or str(self.drawn))
        store = open_split(data, self.config.data.train_split)
        enough = next((i for i, s in enumerate(store.shards, 1) if s.first_id + s.samples >= READ_IMAGES), None)
        store.shards = store.shards[:enough]
        return store


def silent(world: World) -> Display:
    """A display without output."""
    return Display(World(rank=1, device=world.device))


def images_of(store: Store) -> int:
    """Images of the shards that are read."""
    return sum(shard.samples for shard in store.shards)


def quick(config: Config) -> Config:
    """The same with a small network, small views and few images: seconds on one core, and ratios that mean little."""
    return replace(
        config,
        views=ViewsConfig(size=32, resize=36),
        model=ModelConfig(backbone="small", dim=32),
        batch=BatchConfig(groups=4, group_size=5),
        manifold=ManifoldConfig(),
        proxies=ProxiesConfig(count=20),
    )


def draw(folder: Path, config: Config, pixels: int) -> Path:
    """A data set of rendered glyphs, DRAWN_BATCHES batches to train on, no class of which is tested.

    Raises:
        UserError: started outside of a checkout, where there is nothing to draw it with.
    """
    try:
        from dist_plm.datasets import demo
        from dist_plm.datasets.assembly import build
        from dist_plm.datasets.entry import Source
    except ImportError as error:
        raise UserError("a data set can be drawn in a checkout only: name one with --shards") from error
    images = DRAWN_BATCHES * config.batch.images
    both = demo.source(2 * images, classes=0, pixels=pixels, seed=0)
    source = Source(
        "drawn", {"train": both.classes["train"]}, lambda: islice(both.entries(), images), images
    )  # those to train on
    build(source, folder, shard_bytes=round(0.4 * images * pixels**2 / 2), workers=1)
    return folder


def machine(world: World) -> dict[str, Any]:
    """Machine and versions that the ratios depend on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "none",
        "ranks": world.size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "faiss": _faiss(),
        "dist_plm": __version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _faiss() -> str:
    faiss = find_faiss()
    if faiss is None:
        return "none"
    return f"{faiss.__version__} on the {'GPU' if gpu_search(faiss) else 'CPU'}"

"""P4 and P5: loader and embedding pass, relative to bare loops over the same work."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch

from dist_plm.bench.ratios import Ratio, in_turns, rate_ratio
from dist_plm.bench.setting import Setting, images_of, silent
from dist_plm.config import Config
from dist_plm.data.decode import decode
from dist_plm.data.loader import Loader, to_device
from dist_plm.data.store import Store
from dist_plm.data.stream import sweep_shards
from dist_plm.data.views import eval_view, train_view
from dist_plm.index.embedding_pass import Embed, sweep
from dist_plm.telemetry.progress import Display

WAIT_STEPS = 2  # of a repeat


def loading(setting: Setting) -> list[Ratio]:
    """P4: throughput of the loader, and waiting time of a step."""
    store, config = setting.store(), setting.config
    batches = max(1, images_of(store) // config.batch.images)
    rows = np.arange(batches * config.batch.images, dtype=np.int64).reshape(batches, -1) % images_of(store)

    def loaded() -> float:
        return setting.seconds(lambda: [None for _ in _loader(store, rows, config, pin=False)]) / rows.size

    def bare() -> float:
        return setting.seconds(lambda: _decode_all(store, rows.ravel(), config)) / rows.size

    bare()  # the page cache
    over, under = in_turns(setting.repeats, loaded, bare)
    note = f"{config.data.workers} thread(s), {rows.size} images, {config.views.count} views of {config.views.size} px"
    return [rate_ratio("P4", over, under, note), _waiting(setting, store)]


def _loader(store: Store, rows: np.ndarray, config: Config, *, pin: bool) -> Loader:
    data = config.data
    return Loader(store, rows, views=config.views, seed=0, epoch=0, workers=data.workers, prefetch=data.prefetch,
                  pin=pin)  # fmt: skip


def _decode_all(store: Store, ids: np.ndarray, config: Config) -> None:
    """Each thread reads, decodes and crops the views of its share, and drops them."""

    def decode_some(some: np.ndarray) -> None:
        for id in some.tolist():
            image = store.read_image(id)
            for view in range(config.views.count):
                train_view(image, config=config.views, seed=0, epoch=0, sample=id, view=view)

    with ThreadPoolExecutor(config.data.workers) as pool:
        list(pool.map(decode_some, np.array_split(ids, config.data.workers)))


def _waiting(setting: Setting, store: Store) -> Ratio:
    """Share of the time of steps spent waiting for images, after the first batches."""
    config, learner = setting.config, setting.learner()
    skipped = config.data.prefetch + 1
    steps = skipped + WAIT_STEPS * setting.repeats
    rows = np.arange(steps * config.batch.images, dtype=np.int64).reshape(steps, -1) % images_of(store)
    loader, clock, waits, wholes = _loader(store, rows, config, pin=setting.on_gpu), setting.clock(), [], []
    began, waited = 0.0, 0.0
    for step, batch in enumerate(loader):
        learner.step(to_device(batch, setting.world.device), step, 10**6)
        if step + 1 < skipped or (step + 1 - skipped) % WAIT_STEPS:
            continue
        now = clock.whole
        if step + 1 > skipped:
            waits.append(1e3 * (loader.wait_seconds - waited))
            wholes.append(1e3 * (now - began))
        began, waited = now, loader.wait_seconds
    return Ratio("P4 wait", waits, wholes, f"{WAIT_STEPS} steps a repeat, {config.data.workers} decoding thread(s)")


def sweeping(setting: Setting) -> list[Ratio]:
    """P5: embedding pass of the momentum encoder, relative to its forward pass and decoding."""
    store, config, learner = setting.store(), setting.config, setting.learner()
    images, numbers = images_of(store), count()
    embed, display = learner.embed_with(learner.teacher), silent(setting.world)
    views = torch.cat([batch for batch in _eval_batches(setting, store)][:2])[: config.evaluation.batch_size]
    views = views.to(setting.world.device)

    def forward() -> float:
        def act() -> None:
            for _ in range(max(1, images // len(views))):
                embed(views)

        return setting.seconds(act) / (max(1, images // len(views)) * len(views))

    def decoded() -> float:
        return setting.seconds(lambda: _decode_views(store, config)) / images

    def swept() -> float:
        folder = setting.scratch / f"sweep{next(numbers)}"
        return setting.seconds(lambda: _sweep(setting, store, embed, folder, display)) / images

    alone: tuple[list[float], list[float]] = ([], [])

    def slower() -> float:
        for values, side in zip(alone, (forward, decoded), strict=True):
            values.append(side())
        return max(values[-1] for values in alone)

    forward()
    over, under = in_turns(setting.repeats, swept, slower)
    network, codec = (1 / median(values) for values in alone)
    note = f"forward alone {network:,.0f}, decoding alone {codec:,.0f} images/s"
    if not setting.on_gpu:
        note += f"; on the same cores together {1 / (1 / network + 1 / codec):,.0f} at most"
    return [rate_ratio("P5", over, under, note)]


def _sweep(setting: Setting, store: Store, embed: Embed, folder: Path, display: Display) -> None:
    sweep(embed, store, folder, config=setting.config, world=setting.world, display=display, title="sweep")


def _eval_batches(setting: Setting, store: Store) -> Iterator[torch.Tensor]:
    config = setting.config
    shards = sweep_shards(store, range(len(store.shards)), config=config.views,
                          batch_size=config.evaluation.batch_size, workers=config.data.workers)  # fmt: skip
    return (batch for _, batches in shards for batch in batches)


def _decode_views(store: Store, config: Config) -> None:
    """Each thread reads and decodes its share of the images to their evaluation view."""

    def some(ids: np.ndarray) -> None:
        for id in ids.tolist():
            eval_view(decode(store.read(id)), config=config.views)

    with ThreadPoolExecutor(config.data.workers) as pool:
        list(pool.map(some, np.array_split(np.arange(images_of(store)), config.data.workers)))

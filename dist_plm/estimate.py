"""`--plan`: what a run would need, by arithmetic, before anything is started."""

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from dist_plm.config import Config
from dist_plm.data.plan import valid_world_sizes
from dist_plm.data.store import Store
from dist_plm.methods.plm import PAIRS
from dist_plm.model import Encoder

FLOAT = 4  # bytes


def estimate(config: Config, world_size: int) -> None:
    """Print world, batch arithmetic, memory of a rank and the bytes that an epoch reads."""
    table = Table(title=f"plan of {config.run_dir}", show_header=False)
    for name, value in _rows(config, world_size):
        table.add_row(name, value)
    Console().print(table)


def batch_arithmetic(config: Config, world_size: int) -> str:
    """The global batch in one line."""
    batch, views = config.batch, config.views.count
    points = batch.images * views
    return (
        f"{batch.groups} groups x {batch.group_size} images = {batch.images} images x {views} views = {points} points, "
        f"{points // world_size} a rank"
    )


def _rows(config: Config, world_size: int) -> list[tuple[str, str]]:
    store = Store(config.data.shards, config.data.train_split)
    steps = len(store) // config.batch.images
    sizes = np.asarray(store.offsets["size"], dtype=np.int64)
    sweep = int(sizes.sum()) // config.batch.refresh_epochs
    steps_bytes = int(sizes.mean() * steps * config.batch.images)
    total = (config.warm_up.epochs + config.train.epochs) * steps
    memory = _memory(config, world_size, len(store))
    return [
        ("world", f"{world_size} ranks (possible: {', '.join(map(str, valid_world_sizes(config.batch.groups)))})"),
        ("data", f"{len(store):,} images in {len(store.shards)} shards, {sizes.sum() / 1e6:,.1f} MB"),
        ("batch", batch_arithmetic(config, world_size)),
        ("epoch", f"{steps:,} steps; {config.warm_up.epochs} + {config.train.epochs} epochs = {total:,} steps"),
        ("an epoch reads", f"{sweep / 1e6:,.1f} MB in order (sweep), {steps_bytes / 1e6:,.1f} MB at random (steps)"),
        *((f"memory: {name}", f"{size / 1e6:,.1f} MB a rank") for name, size in memory.items()),
        ("memory: sum", f"{sum(memory.values()) / 1e6:,.1f} MB a rank, activations of the backbone not counted"),
    ]


def _memory(config: Config, world_size: int, images: int) -> dict[str, float]:
    encoder = Encoder(replace(config.model, weights=""))
    weights = sum(p.numel() for p in encoder.parameters()) * FLOAT
    moments = {"sgd": 1}.get(config.optimiser.name, 2)
    points = config.batch.images * config.views.count
    own_points = points / world_size
    proxies = -(-config.proxies.count // world_size)
    dim, m = config.model.dim, config.manifold.dim
    return {
        "student, gradient and moments": weights * (2 + moments),
        "momentum encoder": weights,
        "proxies, gradient and moments": proxies * dim * (1 + m) * (2 + moments) * FLOAT,
        # distance, p, o, s and their gradients: about eight matrices of pairs are alive at once
        "pairs of points": 8 * own_points * points * FLOAT,
        # three times as many with M basis vectors, but for a piece of the proxies at a time
        "pairs of points and proxies": 25 * min(points * proxies, PAIRS) * FLOAT,
        "gallery": images * dim * FLOAT,
        "views decoded ahead": (config.data.prefetch + 1) * own_points * 3 * config.views.size**2,
    }

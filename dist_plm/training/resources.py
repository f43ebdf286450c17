"""`--plan`: resources of a run, computed and measured in advance."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dist_plm.config import Config, RuntimeConfig, ZeroConfig
from dist_plm.data.decoded import estimated_bytes
from dist_plm.data.opening import open_split
from dist_plm.data.place import cache_folder, is_url
from dist_plm.data.plan import plan_steps
from dist_plm.data.remote.spans import BLOCK
from dist_plm.data.store import Store
from dist_plm.distributed.shares import batch_shares
from dist_plm.index.placement import place_run
from dist_plm.methods import METHODS, is_searched, is_swept
from dist_plm.model import Encoder
from dist_plm.model.split import split
from dist_plm.parallel.strategy.memory import FLOAT, network_bytes
from dist_plm.training.forecast import Rates, disk_rows, time_rows
from dist_plm.training.operators import operators_row
from dist_plm.training.rehearsal import Rehearsal, rehearse

LISTED = 32  # ranks whose shares `--plan` lists individually


class NetworkSizes(NamedTuple):
    """Numbers of a network; frozen weights have one copy, and neither gradient nor moments.

    Args:
        trained: Trainable weights.
        frozen: Weights of the frozen part.
        shared: Weights that are frozen under adapters.
        features: Numbers that the frozen part passes on per view; 0 where they are not cached.
    """

    trained: int
    frozen: int
    shared: int
    features: int


def estimate(config: Config, world_size: int, *, images_per_second: float = 0.0, measure: bool = True) -> None:
    """Print world, batch arithmetic, memory per rank, time, disk and the bytes that an epoch reads.

    Args:
        images_per_second: Of all ranks in steps; 0: measured on this machine, see rehearsal.py.
        measure: Whether this machine is that of the run, so that a measurement means something.
    """
    table = Table(title=f"plan of {config.run_dir}", show_header=False)
    for name, value in _rows(config, world_size, images_per_second, measure):
        table.add_row(name, value)
    Console().print(table)


def batch_arithmetic(config: Config, world_size: int) -> str:
    """The global batch in one line."""
    batch, views = config.batch, config.views.count
    shares = batch_shares(config, world_size).times(views)
    per_rank = f"{shares.largest}" if shares.equal else f"{min(shares.sizes)} to {shares.largest}"
    return (
        f"{batch.groups} groups x {batch.group_size} images = {batch.images} images x {views} views = "
        f"{shares.total} points, {per_rank} per rank"
    )


def share_rows(config: Config, world_size: int) -> list[tuple[str, str]]:
    """Lines of `--plan`: images of a batch on each rank; if unequal, the cost and how to avoid it.

    The rank with the largest share determines the duration of a step: up to `Shares.imbalance` times that of equal
    shares.
    """
    shares, batch = batch_shares(config, world_size), config.batch
    listed = " ".join(map(str, shares.sizes)) if world_size <= LISTED else f"{min(shares.sizes)} to {shares.largest}"
    rows = [("shares", f"{listed} images on {world_size} rank{'s' * (world_size > 1)}")]
    if shares.equal:
        return rows
    multiple = world_size // math.gcd(world_size, batch.group_size)
    groups = max(1, (2 * batch.groups + multiple) // (2 * multiple)) * multiple
    mend = f"equal with --batch.groups {groups} ({groups * batch.group_size} images)"
    lanes = -(-config.runtime.lanes // world_size) * world_size
    if config.runtime.strategy == "reproducible" and config.runtime.lanes < lanes <= batch.images:
        mend = f"nearly equal with --runtime.lanes {lanes}, which changes the last bits of the result"
    cost = f"{shares.largest} / {shares.total / world_size:.4g} = {shares.imbalance:.3g}"
    return [*rows, ("unequal shares", f"a step takes up to {cost} times as long as with equal shares; {mend}")]


def _rows(config: Config, world_size: int, images_per_second: float, measure: bool) -> list[tuple[str, str]]:
    store = open_split(config.data, config.data.train_split)
    steps = plan_steps(len(store), config.batch)
    sizes = np.asarray(store.offsets["size"], dtype=np.int64)
    total = (config.warm_up.epochs + config.train.epochs) * steps
    weights = network_sizes(config)
    trained, frozen, shared, features = weights
    still = frozen + shared
    networks = _networks(config, world_size, weights)
    chosen = networks[_strategy(config.runtime)]
    memory = {"network": chosen, **_memory(config, world_size, images=len(store), classes=len(store.classes))}
    measured = rehearse(config, store, world_size) if measure else None
    if measured:
        memory["activations"] = measured.activations * views_at_once(config, world_size)
        if measured.device == "cpu":
            memory["Python and libraries"] = max(0.0, measured.process - chosen)
    rates = measured and Rates.measured(measured, config, world_size)
    if images_per_second:
        rates = Rates.from_speed(images_per_second, config)
    return [
        ("world", f"{world_size} rank{'s' * (world_size > 1)}"),
        (
            "weights",
            f"{trained / 1e6:,.2f} M trainable, {still / 1e6:,.2f} M frozen (model.trainable {config.model.trainable})"
            + ": those have no gradient, no moments and one copy" * bool(still),
        ),
        ("data", f"{len(store):,} images in {len(store.shards)} shards, {sizes.sum() / 1e6:,.1f} MB"),
        ("batch", batch_arithmetic(config, world_size)),
        *share_rows(config, world_size),
        ("epoch", f"{steps:,} steps; {config.warm_up.epochs} + {config.train.epochs} epochs = {total:,} steps"),
        *operators_row(config, config.batch.images / rates.step if rates else 0.0),
        *read_rows(config, store, swept=is_swept(config)),
        *(_index(config, world_size, len(store), steps) if is_searched(config) else []),
        *((f"memory: {name}", f"{size / 1e6:,.1f} MB per rank") for name, size in memory.items()),
        ("memory: sum", f"{sum(memory.values()) / 1e6:,.1f} MB per rank{_remark(measured)}"),
        *((f"network under {name}", f"{size / 1e6:,.1f} MB per rank") for name, size in networks.items()),
        *(time_rows(config, len(store), rates) if rates else []),
        *disk_rows(
            config, len(store), classes=len(store.classes), trained=trained, frozen=frozen + shared, features=features
        ),
    ]


def views_at_once(config: Config, world_size: int) -> int:
    """Views whose activations a rank keeps at once: its share, or a micro-batch of it."""
    pieces = config.batch.micro_batches
    if config.runtime.strategy == "reproducible":  # a lane at a time
        pieces = max(pieces, -(-config.runtime.lanes // world_size))
    return -(-batch_shares(config, world_size).largest // pieces) * config.views.count


def _remark(measured: Rehearsal | None) -> str:
    if measured is None:
        return ", activations of the backbone not counted"
    return f"; activations are measured, {measured.activations / 1e6:,.1f} MB per view"


def read_rows(config: Config, store: Store, *, swept: bool) -> list[tuple[str, str]]:
    """Lines of `--plan`: bytes of an epoch, and requests and cache where the shards are at a URL.

    Args:
        swept: Whether a refresh embeds all images.
    """
    sizes = np.asarray(store.offsets["size"], dtype=np.int64)
    total, batch = int(sizes.sum()), config.batch
    images = plan_steps(len(store), batch) * batch.images
    sweep, steps = total / batch.refresh_epochs * swept, sizes.mean() * images
    rows = [("an epoch reads", f"{sweep / 1e6:,.1f} MB in order (embedding), {steps / 1e6:,.1f} MB at random (steps)")]
    if config.data.decoded_side:
        size = estimated_bytes(store, config.data.decoded_side) / 1e9
        place = cache_folder(config.data)
        rows.append(
            ("decoded once", f"about {size:,.3g} GB on a disk of each node, in {place}; epochs read from there")
        )
    elif is_url(config.data.shards):
        stretches = sum(-(-shard.bytes // BLOCK) for shard in store.shards) / batch.refresh_epochs * swept
        requests = f"{stretches:,.0f} in order, {images:,} at random at most, without cached images"
        held = min(1.0, config.data.cache_gb * 1e9 / total)
        rows += [
            ("an epoch's requests", f"{requests}; at least {config.data.prefetch + 1} steps ahead"),
            (
                "cache of a node",
                f"{config.data.cache_gb:,.3g} GB in {cache_folder(config.data)}: {held:.0%} of the images",
            ),
        ]
    return rows


def _index(config: Config, world_size: int, images: int, steps: int) -> list[tuple[str, str]]:
    """Placement of the index, and search time of a refresh if all ranks are as fast as this one."""
    from dist_plm.index.cost import comparison_seconds, refresh_cost

    placement = place_run(config, images, world_size)
    dim, method = config.model.wide_dim or config.model.dim, METHODS[config.train.method]
    # Every image where neighbourhoods come from the gallery, and the seeds of groups.
    seeds = images * method.reads_gallery(config) + steps * config.batch.groups * method.is_searched(config.batch)
    gpu = config.runtime.device != "cpu" and torch.cuda.is_available()
    device, backend = torch.device("cuda" if gpu else "cpu"), config.index.backend
    comparison = comparison_seconds(dim, 2 * config.batch.group_size, backend, device)
    cost = refresh_cost(
        config.index, placement, count=images, seeds=seeds, world_size=world_size, comparison=comparison
    )
    parts = {"building": cost.build, "searching": cost.search, "measuring recall": cost.judge}
    times = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in parts.items() if seconds)
    return [
        ("index", placement.describe(config.index, images, dim)),
        ("a refresh searches", f"{seeds:,} seeds: about {times} on ranks as fast as this one, "
                               f"{1 / comparison / 1e9:,.2f} G comparisons/s"),
    ]  # fmt: skip


def _networks(config: Config, world_size: int, weights: NetworkSizes) -> dict[str, float]:
    """Memory of student, gradients, moments and momentum encoder under each strategy that differs."""
    trained, frozen, shared, _ = weights
    moments = 1 if config.optimiser.name == "sgd" else 2
    offload = config.runtime.zero.offload
    kinds = [RuntimeConfig(), *(RuntimeConfig(strategy="deepspeed", zero=ZeroConfig(n, offload)) for n in (1, 2, 3))]
    return {
        _strategy(kind): network_bytes(
            trained, moments, world_size, kind.zero if kind.strategy == "deepspeed" else None
        )
        # Stage 3 also shards frozen weights under adapters, separately for the momentum encoder.
        + FLOAT
        * (frozen + (2 * shared / world_size if kind.zero.stage == 3 and kind.strategy == "deepspeed" else shared))
        for kind in kinds
    }


def network_sizes(config: Config) -> NetworkSizes:
    """Sizes of the network of a configuration, which is built."""
    encoder = Encoder(replace(config.model, weights=""))
    before, part = split(encoder, config.model, config.views.size, seed=config.seed).parts(encoder)
    sizes = {id(parameter): parameter.numel() for parameter in part.parameters()}
    trained = sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
    everything = sum(parameter.numel() for parameter in encoder.parameters())
    features = 0
    if config.views.cached and before:
        features = before(torch.zeros(1, 3, config.views.size, config.views.size)).numel()
    return NetworkSizes(trained, everything - sum(sizes.values()), sum(sizes.values()) - trained, features)


def _strategy(runtime: RuntimeConfig) -> str:
    if runtime.strategy != "deepspeed":
        return "ddp"
    return f"deepspeed, stage {runtime.zero.stage}{', offloaded' if runtime.zero.offload else ''}"


def _memory(config: Config, world_size: int, *, images: int, classes: int) -> dict[str, float]:
    points = config.batch.images * config.views.count
    own_points = batch_shares(config, world_size).largest * config.views.count
    return {
        **METHODS[config.train.method].memory(config, classes, world_size),
        # distance, p, o, s and their gradients: about eight matrices of pairs at a time
        "pairs of points": 8 * own_points * points * FLOAT,
        "index": place_run(config, images, world_size).bytes if is_searched(config) else 0,
        "prefetched views": (config.data.prefetch + 1) * own_points * 3 * config.views.size**2,
    }

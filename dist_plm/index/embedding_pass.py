"""The gallery: embeddings of all images of a split, swept by all ranks together."""

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.distributed.shares import balanced
from dist_plm.distributed.world import World
from dist_plm.files.atomic import replacing
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.sources import Source, from_images
from dist_plm.telemetry.progress import Display, Phase

Embed = Callable[[Tensor], Tensor]


def sweep(
    embed: Embed,
    store: Store,
    folder: Path,
    *,
    config: Config,
    world: World,
    display: Display,
    title: str,
    precision: Literal["fp32", "fp16"] = "fp32",
    source: Source | None = None,
) -> Embeddings:
    """Embeddings [n, D] of all images of `store`, for every rank to read. A collective.

    Each rank streams shards of its own in order and writes one file per shard under `folder`/split; a shard whose file
    is there is not read again, so a killed sweep goes on where it was. The others are shared out by their size, so that
    the ranks end together. A batch never spans two shards: an embedding is the same to the bit whichever rank computes
    it. `folder` must be named after the weights of `embed`. `source` is where batches come from, if not from the
    evaluation views of the images.

    Raises:
        Preempted: a rank was told to leave, and all do so between two batches.
    """
    folder = folder / store.split
    # By their ids: the same images in another cut have other files.
    files = [folder / f"ids_{shard.first_id}_{shard.samples}.npy" for shard in store.shards]
    folder.mkdir(parents=True, exist_ok=True)
    # As the first rank sees it: on a network's file system not all see a file at once.
    there = world.from_first(lambda: set(os.listdir(folder)))
    missing = [number for number, file in enumerate(files) if file.name not in there]
    shares = balanced([store.shards[number].samples for number in missing], world.size)
    own = [missing[position] for position in shares[world.rank]]
    total = sum(store.shards[number].samples for number in own)
    shards = (source or from_images(config))(store, own)
    with display.phase(title, total, "images") as phase, closing(shards):
        for number, batches in shards:
            embedded = _embedded(embed, batches, world, phase)
            if embedded is None:  # what there is of this shard may not be all
                break
            with replacing(files[number]) as file:
                np.save(file, embedded.numpy().astype(np.float16 if precision == "fp16" else np.float32, copy=False))
    world.leave_if_told()  # ranks with fewer shards wait here for the others
    return Embeddings(files)


def _embedded(embed: Embed, batches: Iterable[Tensor], world: World, phase: Phase) -> Tensor | None:
    """The embeddings of a shard, float32 [n, D] on the CPU; None where a rank was told to leave."""
    rows = []
    for batch in batches:
        # A copy from memory that is not pinned waits for all that a GPU has queued.
        pinned = batch.pin_memory() if world.device.type == "cuda" else batch
        rows.append(embed(pinned.to(world.device, non_blocking=True)))
        phase.advance(len(batch), scale=world.size)
        if world.told:
            return None
    # Not batch by batch, which would wait for the device each time instead of gathering the next batch meanwhile.
    return torch.cat(rows).float().cpu()

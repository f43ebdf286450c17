"""The gallery: embeddings of all images of a split, swept by all ranks together, and its nearest-neighbour search."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.data.stream import sweep_shard
from dist_plm.index.flat import Backend, nearest
from dist_plm.runtime.atomic import replacing
from dist_plm.runtime.progress import Display
from dist_plm.runtime.world import World

Embed = Callable[[Tensor], Tensor]


def sweep(
    embed: Embed, store: Store, folder: Path, *, config: Config, world: World, display: Display, title: str
) -> np.ndarray:
    """Embeddings [n, D] float32 of all images of `store`, on every rank. A collective.

    Each rank streams its own shards in order and writes one file per shard under `folder`/split; a shard whose file is
    there is not read again, so a killed sweep goes on where it was. A batch never spans two shards: an embedding is the
    same to the bit whichever rank computes it. `folder` must be named after the weights of `embed`.

    Raises:
        Preempted: a rank was told to leave, and all do so between two batches.
    """
    folder = folder / store.split
    files = [folder / f"shard_{number:06d}.npy" for number in range(len(store.shards))]
    own = range(world.rank, len(files), world.size)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(store.shards[number].samples for number in own)
    with display.phase(title, total, "images") as phase:
        for number in own:
            if files[number].exists():
                phase.advance(store.shards[number].samples)
                continue
            rows = []
            for batch in sweep_shard(
                store,
                number,
                config=config.views,
                batch_size=config.evaluation.batch_size,
                workers=config.data.workers,
            ):
                rows.append(embed(batch.to(world.device, non_blocking=True)).float().cpu().numpy())
                phase.advance(len(batch), scale=world.size)
                if world.told:
                    break
            if world.told:  # what there is of this shard may not be all
                break
            with replacing(files[number]) as file:
                np.save(file, np.concatenate(rows))
    world.leave_if_told()  # ranks with fewer shards wait here for the others
    return np.concatenate([np.load(file) for file in files])


@dataclass(frozen=True)
class Gallery:
    """Momentum embeddings [n, D] of the training images, replicated on every rank."""

    embeddings: np.ndarray
    backend: Backend
    world: World

    def neighbours(self, seeds: np.ndarray, depth: int) -> np.ndarray:
        """The `depth` nearest images [S, depth] of each seed [S], by (distance, id), itself left out.

        A collective: every rank asks for the same seeds, searches for its share and receives all.
        """
        own = np.array_split(seeds, self.world.size)[self.world.rank]
        ids, _ = nearest(
            self.embeddings[own],
            self.embeddings,
            depth,
            exclude=own,
            backend=self.backend,
            device=self.world.device,
        )
        return np.concatenate(self.world.gather_objects(np.asarray(ids)))


def digest(module: nn.Module) -> str:
    """A name for the weights of a module: equal weights, equal name."""
    sha = hashlib.sha256()
    for name, value in module.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]

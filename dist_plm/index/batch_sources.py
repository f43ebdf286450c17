"""Batch sources of an embedding pass: images of the shards, or rows computed from them earlier."""

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.data.stream import Cut, sweep_shards
from dist_plm.index.embedding_files import Embeddings

# For some shards of a store, in order: position of the shard, and its batches [b, ...].
Source = Callable[[Store, Sequence[int]], Generator[tuple[int, Iterator[Tensor]], None, None]]


def from_images(config: Config, cut: Cut | None = None) -> Source:
    """One view of each image: the evaluation view, or what `cut` makes of an image and its id, uint8 [b, 3, s, s]."""

    def read(store: Store, shards: Sequence[int]) -> Generator[tuple[int, Iterator[Tensor]], None, None]:
        return sweep_shards(
            store,
            shards,
            config=config.views,
            cut=cut,
            batch_size=config.evaluation.batch_size,
            workers=config.data.workers,
        )

    return read


def from_rows(rows: Embeddings, shape: tuple[int, ...], batch_size: int) -> Source:
    """Rows stored by an earlier sweep of the same store, float [b, *shape]."""

    def read(store: Store, shards: Sequence[int]) -> Generator[tuple[int, Iterator[Tensor]], None, None]:
        for number in shards:
            shard = store.shards[number]
            first, last = shard.first_id, shard.first_id + shard.samples
            starts = range(first, last, batch_size)
            yield (
                number,
                (
                    torch.from_numpy(rows.block(low, min(low + batch_size, last))).reshape(-1, *shape).float()
                    for low in starts
                ),
            )

    return read

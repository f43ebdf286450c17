"""Nearest-neighbour index over the embeddings of all images, replicated or sharded over the ranks."""

import time
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.config.index import IndexConfig
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure, UserError
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.flat import Exact
from dist_plm.index.ivf import Ivf, train, training_ids
from dist_plm.index.placement import Placement, own_slice
from dist_plm.index.proposals import GPU_MOST_CANDIDATES, Backend, open_search, search_by_torch
from dist_plm.index.ranking import LAST
from dist_plm.index.rows import MappedRows, Rows, common_lattice


class GlobalIndex:
    """An index over all embeddings of a split; a context manager that frees its memory.

    Every method is a collective: the ranks search the same seeds in the same order and receive the same result as a
    single rank would, including ties. The result of an exact index does not depend on the placement.

    Args:
        embeddings: The same files for all ranks.
        config: Type of the index.
        placement: Replicated or sharded.
        backend: Library of exact search; an inverted file needs FAISS.
        seed: Seed of the samples for training the cells and measuring recall.

    Attributes:
        facts: For the event of a refresh: kind, placement, bytes, seconds, and the recall of an approximate
            index.
    """

    @torch.no_grad()
    def __init__(
        self,
        embeddings: Embeddings,
        config: IndexConfig,
        placement: Placement,
        *,
        backend: Backend,
        world: World,
        seed: int,
    ) -> None:
        started, count = time.monotonic(), len(embeddings)
        self._config, self._placement, self._world, self._seed = config, placement, world, seed
        share = own_slice(count, world.rank, world.size)
        part = MappedRows(embeddings, share.start, share.stop, world.device)
        lattice = common_lattice(part, count, world)
        local_rows = placement.rows(count, world.rank, world.size)
        mapped = MappedRows(embeddings, local_rows.start, local_rows.stop, world.device)
        if world.device.type == "cuda":
            torch.cuda.empty_cache()  # FAISS allocates from the driver, not from torch
        self._count, self._lattice, self._own = count, lattice, local_rows
        self._rows: Rows = mapped.held() if world.device.type == "cuda" and config.exact else mapped
        self._index: Exact | Ivf
        if config.exact:
            self._index = Exact(self._rows, lattice, open_search(backend, lattice, self._rows), local_rows.start)
        else:

            def trained() -> np.ndarray:
                sample = torch.from_numpy(embeddings.take(training_ids(count, placement.cells, seed)))
                return train(config.factory, lattice, sample, world.device)

            self._index = Ivf(mapped, lattice, world.from_first(trained), local_rows.start)
        # Reference for the recall of approximate search, without a copy of the rows.
        self._judge = Exact(mapped, lattice, search_by_torch(lattice, mapped, copy=False), local_rows.start)
        world.barrier("the building of the index")
        self.facts: dict[str, Any] = {
            "index": config.factory, "sharded": placement.sharded, "bytes": placement.bytes,
            "build_seconds": time.monotonic() - started, "search_seconds": 0.0,
        }  # fmt: skip

    def neighbours(self, seeds: np.ndarray, depth: int) -> np.ndarray:
        """The `depth` nearest images [S, depth] of each seed, int64 [S], by (distance, id), without the seed.

        A seed for which an approximate index has too few candidates is searched exactly.
        """
        started = time.monotonic()
        keys = self._search(self._index, seeds, depth)
        missing = (keys == LAST).any(1).numpy()
        if missing.any():
            keys[missing] = self._search(self._judge, seeds[missing], depth)
        self.facts["search_seconds"] += time.monotonic() - started
        return self._lattice.ids(keys).numpy()

    def guard(self, epoch: int, k: int) -> None:
        """Measure the recall of an approximate index, and double nprobe until it reaches the floor.

        The share of the k true neighbours that is found, over `recall_sample` seeds drawn anew each epoch.

        Raises:
            RunFailure: The recall is below the floor even at `nprobe_max` or with all cells.
        """
        if not isinstance(self._index, Ivf):
            return
        config, cells = self._config, self._placement.cells
        if self._rows.device.type == "cuda" and min(config.nprobe_max, cells) > GPU_MOST_CANDIDATES:
            raise UserError(
                f"index.nprobe_max is {config.nprobe_max}: faiss searches {GPU_MOST_CANDIDATES} cells of an inverted "
                "file on a GPU at most; lower it"
            )
        sample = np.random.default_rng([self._seed, epoch]).permutation(self._count)[: config.recall_sample]
        started = time.monotonic()
        exact = self._search(self._judge, sample, k)
        self.facts |= {"k": k, "sample": len(sample), "exact_seconds": time.monotonic() - started}
        nprobe, most = min(config.nprobe, cells), min(config.nprobe_max, cells)
        while True:
            self._index.probe(nprobe)
            keys = self._search(self._index, sample, k)
            hits = (keys[:, :, None] == exact[:, None, :]) & (exact != LAST)[:, None, :]
            recall = float(hits.any(1).double().mean())
            self.facts |= {"nprobe": nprobe, "recall": recall}
            if recall >= config.recall_floor:
                return
            if nprobe >= most:
                break
            nprobe = min(2 * nprobe, most)
        raise RunFailure(
            f"the index {config.factory} finds {recall:.4f} of the {k} nearest images of {len(sample):,} seeds with "
            f"{nprobe} of {cells} cells searched, index.recall_floor is {config.recall_floor:g}: raise "
            "index.nprobe_max, use codes of more bytes or fewer cells, or set --index.factory Flat, with --force_resume"
        )

    def __enter__(self) -> "GlobalIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._index, self._judge, self._rows
        if self._world.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _search(self, index: Exact | Ivf, seeds: np.ndarray, k: int) -> Tensor:
        """Keys [S, k] on the CPU. Each rank searches an equal share of the seeds, in rank order."""
        world, count = self._world, len(seeds)
        padded = np.concatenate([seeds, np.repeat(seeds[-1:], -count % world.size)])
        sampled = torch.from_numpy(padded).to(world.device)
        share = sampled.reshape(world.size, -1)[world.rank]
        if self._placement.sharded:
            keys = world.exchange_rows(index.search(self._vectors(sampled), sampled, k))
            keys = keys.reshape(world.size, len(share), -1).transpose(0, 1).reshape(len(share), -1)
        else:
            keys = index.search(self._rows.take(share), share, k)
        return world.gather_rows(index.merge(keys, share, k))[:count].cpu()

    def _vectors(self, seeds: Tensor) -> Tensor:
        """Embeddings of seeds, float32 [S, D], each from the rank that holds it: a sum with zeros changes no bit."""
        vectors = torch.zeros(len(seeds), self._rows.dim, device=seeds.device)
        held = (seeds >= self._own.start) & (seeds < self._own.stop)
        vectors[held] = self._rows.take(seeds[held] - self._own.start).float()
        return self._world.sum(vectors)

"""Approximate search by a FAISS inverted file (IVF): a query is compared with the rows of its nearest cells.

All ranks share the cells and the codec, trained once on a sample; each adds its own rows. Candidates are ranked by
code, and the best `reach` re-ranked by exact distance and id. In a sharded index the candidates of all ranks are
merged by code before the re-ranking, so that results do not depend on the partition.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.errors import UserError
from dist_plm.index.faiss_library import reason_of, require_faiss
from dist_plm.index.flat import exact_distances
from dist_plm.index.proposals import GPU_MOST_CANDIDATES, gpu_resources, gpu_search, prepare
from dist_plm.index.ranking import LAST, Lattice, fill
from dist_plm.index.rows import BLOCK, Rows

REACH = 4  # re-ranked candidates per neighbour: codes of 8 bits per coordinate confuse close ranks
TRAINING_ROWS = 64  # per cell; FAISS warns below 39 and uses 256 at most
LEAST_TRAINING_ROWS = 65_536  # for the codec, whatever the number of cells


def training_ids(count: int, cells: int, seed: int) -> np.ndarray:
    """The rows, of `count`, that cells and codec are trained on: int64, ascending."""
    wanted = min(count, max(TRAINING_ROWS * cells, LEAST_TRAINING_ROWS))
    return np.sort(np.random.default_rng([seed, cells]).choice(count, wanted, replace=False))


def train(factory: str, lattice: Lattice, sample: Tensor, device: torch.device) -> np.ndarray:
    """An empty index with cells and codec trained on `sample` [m, D], as bytes (uint8)."""
    faiss = require_faiss(f"index.factory {factory}")
    prepare(faiss)
    index = faiss.index_factory(sample.shape[1], factory)
    ivf = faiss.extract_index_ivf(index)
    if device.type == "cuda" and gpu_search(faiss):
        flat = faiss.IndexFlatL2(ivf.d)
        ivf.clustering_index = faiss.index_cpu_to_gpu(gpu_resources(), device.index or 0, flat)
    # k-means warns below 39 rows per cell, which a small data set can't avoid.
    ivf.cp.min_points_per_centroid = 1
    index.train(np.concatenate([_in_units(lattice, block.to(device)) for block in sample.split(BLOCK)]))
    ivf.clustering_index = None
    return faiss.serialize_index(index)


class Ivf:
    """Rows first..first+m-1 of a gallery in the cells that `train` found.

    Args:
        rows: [m, D], read again for the exact distances of candidates.
        lattice: Of the whole gallery.
        trained: What `train` returned.
        first: Id of the first row.
    """

    def __init__(self, rows: Rows, lattice: Lattice, trained: np.ndarray, first: int = 0) -> None:
        faiss = require_faiss("an inverted file")
        prepare(faiss)
        self._rows, self._lattice, self._first = rows, lattice, first
        self._index: Any = faiss.deserialize_index(trained)
        self._settings: Any = faiss.ParameterSpace()
        self._most = len(rows)
        if rows.device.type == "cuda" and gpu_search(faiss):
            self._index = _on_gpu(faiss, self._index, rows.device)
            self._settings, self._most = faiss.GpuParameterSpace(), GPU_MOST_CANDIDATES
        for _, block in rows.blocks(BLOCK):
            self._index.add(_in_units(lattice, block))

    def probe(self, cells: int) -> None:
        """Set the number of cells to search (nprobe)."""
        self._settings.set_index_parameter(self._index, "nprobe", cells)

    def search(self, queries: Tensor, exclude: Tensor | None, k: int) -> Tensor:
        """Candidates int64 [s, 2 c] among these rows: c ranks by code, LAST for none, and c keys."""
        reach = min(REACH * (k + 1), GPU_MOST_CANDIDATES)
        squared, nearest = self._index.search(_in_units(self._lattice, queries), min(reach, self._most))
        codes, ids = (torch.from_numpy(array).to(queries.device) for array in (squared, nearest))
        missing = ids < 0
        ids.clamp_(min=0)
        exact = exact_distances(self._lattice.points(queries), ids, self._rows, self._lattice)
        keys = self._lattice.keys(exact, ids + self._first).masked_fill_(missing, LAST)
        # Floats that are not negative have the order of their bits.
        ranks = codes.clamp_(min=0).view(torch.int32).long().masked_fill_(missing, LAST)
        return torch.cat([fill(ranks, reach), fill(keys, reach)], 1)

    def merge(self, candidates: Tensor, exclude: Tensor, k: int) -> Tensor:
        """Keys [s, k] of the k nearest among candidates of several galleries [s, several * 2 c]; LAST for none."""
        reach = min(REACH * (k + 1), GPU_MOST_CANDIDATES)
        by_gallery = candidates.reshape(len(candidates), -1, 2, reach)
        ranks, keys = by_gallery.transpose(1, 2).reshape(len(candidates), 2, -1).unbind(1)
        ids = self._lattice.ids(keys).masked_fill(keys == LAST, LAST)
        order = ids.argsort(dim=1, stable=True)
        order = order.gather(1, ranks.gather(1, order).argsort(dim=1, stable=True))[:, :reach]
        keys, ids = keys.gather(1, order), ids.gather(1, order)
        keys = keys.masked_fill(ids == exclude[:, None], LAST).sort(1).values[:, :k]
        return fill(keys, k)


def _in_units(lattice: Lattice, rows: Tensor) -> np.ndarray:
    """Rows from the lattice's centre in their own unit, float32: codecs of half precision overflow on the lattice's."""
    return (lattice.points(rows) * lattice.step).float().cpu().numpy()


def _on_gpu(faiss: Any, index: Any, device: torch.device) -> Any:
    """The index on a GPU.

    Raises:
        UserError: FAISS has no form of it there.
    """
    try:
        return faiss.index_cpu_to_gpu(gpu_resources(), device.index or 0, index)
    except RuntimeError as error:
        raise UserError(
            f"index.factory has no form on a GPU in this faiss ({reason_of(error)}): use IVF with Flat, SQ8 or PQ, or "
            "set --index.backend torch with --index.factory Flat"
        ) from error

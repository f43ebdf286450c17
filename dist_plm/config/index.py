"""Nearest-neighbour index for the composition of batches."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class IndexConfig:
    """Index over the momentum embeddings of all training images.

    Args:
        factory: `Flat`: exact search. Otherwise the factory string of a FAISS IVF index, such as `IVF4096,Flat`,
            `IVF4096,SQ8` or `IVF4096,PQ32x8`: images of the `nprobe` nearest cells are compared by code, and the best
            re-ranked by their embeddings.
        nprobe: Initial number of cells searched per seed.
        nprobe_max: Upper bound of nprobe, which doubles while recall is below the floor.
        recall_floor: Minimum recall of an approximate index; the run stops below it.
        recall_sample: Seeds by which the recall is measured against exact search at every refresh.
        memory_gb: Memory budget of the index per rank, GB (GPU memory if it is searched there). The index is replicated
            if it fits, else sharded over the ranks.
        precision: Number format of the embeddings on disk.
        backend: Library of exact search; `auto` is faiss, on the GPU if both are available, else torch.
    """

    factory: str = "Flat"
    nprobe: int = key(16, above=0)
    nprobe_max: int = key(256, above=0)
    recall_floor: float = key(0.95, least=0, most=1)
    recall_sample: int = key(1_000, above=0)
    memory_gb: float = key(8.0, above=0, free=True)
    precision: Literal["fp32", "fp16"] = "fp32"
    backend: Literal["auto", "faiss", "torch"] = key("auto", free=True)

    @property
    def exact(self) -> bool:
        """Whether the search is exact."""
        return self.factory == "Flat"

    @property
    def item_bytes(self) -> int:
        """Bytes per coordinate on disk."""
        return 2 if self.precision == "fp16" else 4

"""The search for the neighbours of a plan's seeds."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class IndexConfig:
    """Index over the momentum embeddings of all training images.

    Args:
        factory: `Flat` compares a seed with every image: exact. Anything else is a factory string of a FAISS IVF index,
            such as `IVF4096,Flat`, `IVF4096,SQ8` or `IVF4096,PQ32x8`: a seed is compared with the images of its
            `nprobe` nearest cells, by codes, and the best of them by their embeddings.
        nprobe: Cells searched for a seed at first.
        nprobe_max: Cells searched at most; recall below the floor doubles nprobe up to this.
        recall_floor: Least share of the true neighbours that an approximate index has to find, or the run stops.
        recall_sample: Seeds on which that is measured against exact search, at every refresh.
        memory_gb: What the index may take of a rank's memory (GPU memory where it is searched there). It is replicated
            while it fits, and cut among the ranks beyond that.
        precision: Of the embeddings on disk.
        backend: Library of exact search; `auto` is faiss, on the GPU where both are there, else torch.
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
        """Whether no neighbour can be missed."""
        return self.factory == "Flat"

    @property
    def item_bytes(self) -> int:
        """Bytes of a coordinate on disk."""
        return 2 if self.precision == "fp16" else 4

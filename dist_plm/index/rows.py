"""Access to the rows of a gallery: by id, or in blocks."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dist_plm.distributed.world import World
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.ranking import Lattice, box_centre, largest_norm

BLOCK = 65_536  # x 1,024 queries x 4 B = 256 MiB of distances


class Rows(Protocol):
    """Rows [m, D] of any floating type; a search sees them on `device`."""

    device: torch.device
    dim: int

    def __len__(self) -> int: ...

    def take(self, ids: Tensor) -> Tensor:
        """Rows `ids`, int64 [...] -> [..., D]."""
        ...

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of pieces of `size` rows."""
        ...


class HeldRows:
    """Rows of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.device, self.dim = tensor, tensor.device, tensor.shape[1]

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, ids: Tensor) -> Tensor:
        return self.tensor[ids]

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        for low in range(0, len(self.tensor), size):
            yield low, self.tensor[low : low + size]


class MappedRows:
    """Rows low..high-1 of embeddings on disk: a row takes memory while it is used."""

    def __init__(self, embeddings: Embeddings, low: int, high: int, device: torch.device) -> None:
        self.embeddings, self.low, self.high = embeddings, low, high
        self.device, self.dim = device, embeddings.dim

    def __len__(self) -> int:
        return self.high - self.low

    def take(self, ids: Tensor) -> Tensor:
        rows = self.embeddings.take(self.low + ids.reshape(-1).cpu().numpy())
        return torch.from_numpy(rows).to(self.device).reshape(*ids.shape, self.dim)

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        for low in range(self.low, self.high, size):
            block = self.embeddings.block(low, min(low + size, self.high))
            yield low - self.low, torch.from_numpy(block).to(self.device)

    def held(self) -> HeldRows:
        """The same rows in the device's memory, in the type that they have on disk."""
        dtype = torch.from_numpy(self.embeddings.block(self.low, self.low)).dtype
        tensor = torch.empty(len(self), self.dim, dtype=dtype, device=self.device)
        for low, block in self.blocks(BLOCK):
            tensor[low : low + len(block)] = block
        return HeldRows(tensor)


def common_lattice(local: Rows, count: int, world: World) -> Lattice:
    """The lattice of the `count` rows of all ranks, of which this one brings its own. A collective.

    Raises:
        ValueError: an embedding of any rank is not finite.
    """
    low = torch.full((local.dim,), torch.inf, dtype=torch.float64)
    high = -low
    for _, block in local.blocks(BLOCK):
        low, high = low.minimum(block.amin(0).double().cpu()), high.maximum(block.amax(0).double().cpu())
    lows, highs = (torch.stack(world.gather_objects(side)) for side in (low, high))
    centre = box_centre(lows.amin(0), highs.amax(0)).to(local.device)
    norms = torch.tensor([0.0, *(largest_norm(block, centre) for _, block in local.blocks(BLOCK))], dtype=torch.float64)
    largest = torch.tensor(world.gather_objects(float(norms.amax())), dtype=torch.float64).amax()
    return Lattice.scaled(centre, float(largest), count)

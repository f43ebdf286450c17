"""Placement of the index: replicated on every rank while it fits the budget, else sharded over the ranks."""

from dataclasses import dataclass

from dist_plm.config import Config
from dist_plm.config.index import IndexConfig
from dist_plm.errors import UserError
from dist_plm.index.faiss_library import reason_of, require_faiss

GB = 1e9


@dataclass(frozen=True)
class Placement:
    """Placement and size of the index on a rank.

    Attributes:
        sharded: Whether a rank holds a slice of the rows only.
        bytes: On a rank: what is searched; for exact search also the rows as they are on disk, which a GPU holds too
            and the pages of the file system otherwise.
        cells: Of an inverted file; 0 for exact search.
    """

    sharded: bool
    bytes: int
    cells: int = 0

    def rows(self, count: int, rank: int, world_size: int) -> range:
        """The rows, of `count`, that a rank searches."""
        return own_slice(count, rank, world_size) if self.sharded else range(count)

    def describe(self, config: IndexConfig, count: int, dim: int) -> str:
        """One line for display."""
        where = "sharded over the ranks" if self.sharded else "replicated"
        vectors = f"{count:,} x {dim} in {config.precision}"
        return f"{config.factory} over {vectors}, {where}, {self.bytes / GB:,.3f} GB per rank"


def place(config: IndexConfig, count: int, dim: int, world_size: int) -> Placement:
    """Placement of an index over `count` embeddings [D].

    Raises:
        UserError: The factory string is invalid, or the index exceeds the budget even if sharded.
    """
    cells, code = (0, 4 * dim) if config.exact else read_factory(config.factory, count, dim)
    row = code + (8 if cells else 4) + (0 if cells else dim * config.item_bytes)  # its id, or its norm
    whole, slice_ = (rows * row + cells * dim * 4 for rows in (count, -(-count // world_size)))
    budget = config.memory_gb * GB
    if slice_ > budget:
        raise UserError(
            f"index.memory_gb {config.memory_gb:g}: an index {config.factory} over {count:,} x {dim} takes "
            f"{slice_ / GB:,.3f} GB on each of {world_size} ranks: raise it, start more ranks, or set --index.factory "
            "to an inverted file of codes, such as IVF4096,SQ8"
        )
    return Placement(whole > budget, slice_ if whole > budget else whole, cells)


def place_run(config: Config, count: int, world_size: int) -> Placement:
    """Placement of the index of a run over `count` training images. Raises UserError as `place`."""
    return place(config.index, count, config.model.wide_dim or config.model.dim, world_size)


def check_whole(config: Config, count: int, key: str, value: str) -> None:
    """Check that the embeddings of all `count` images fit into memory, which `key` = `value` requires.

    Raises:
        UserError: They exceed `index.memory_gb`.
    """
    index, whole = config.index, 4 * count * (config.model.wide_dim or config.model.dim) / GB
    if whole > index.memory_gb:
        raise UserError(
            f"{key} {value} reads all {count:,} embeddings at once, {whole:,.3f} GB, index.memory_gb is "
            f"{index.memory_gb:g}: raise it, or change --{key}"
        )


def own_slice(count: int, rank: int, world_size: int) -> range:
    """A rank's contiguous share of `count` rows, equal to within one row."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def read_factory(factory: str, count: int, dim: int) -> tuple[int, int]:
    """Cells and bytes of a code, of an inverted file over `count` embeddings [D].

    Raises:
        UserError: faiss is missing, the string is invalid or not an inverted file, or there are too few images.
    """
    faiss = require_faiss(f"index.factory {factory!r}", ", or set --index.factory Flat")
    try:
        index = faiss.index_factory(dim, factory)
    except RuntimeError as error:
        raise UserError(
            f"index.factory {factory!r} is not an index of {dim} dimensions ({reason_of(error)}): use Flat, or for "
            "example IVF1024,Flat, IVF4096,SQ8 or IVF4096,PQ16, where the number after PQ divides the dimension"
        ) from None
    try:
        ivf = faiss.extract_index_ivf(index)
    except RuntimeError:
        raise UserError(
            f"index.factory {factory!r} is neither Flat nor an inverted file: write IVF and a number of cells before it"
        ) from None
    if ivf.nlist < 1:
        raise UserError(f"index.factory {factory!r} has no cells: write their number after IVF")
    least = max(ivf.nlist, 256 if "PQ" in factory else 1)  # centroids
    if count < least:
        raise UserError(
            f"index.factory {factory!r} needs at least {least:,} training images, the split has {count:,}: use fewer "
            "cells, or --index.factory Flat"
        )
    return int(ivf.nlist), int(ivf.code_size)

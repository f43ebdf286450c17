"""Exact nearest neighbours over a gallery, by FAISS or torch, with identical results.

A fast float32 search proposes slightly more candidates than needed, which are re-ranked by exact distance, ties by id.
Queries for which rounding may have hidden a neighbour (many duplicates) get more candidates, and an exact scan at last.
Only candidates are computed in float64, which runs at 1/64 of the rate of float32 on many GPUs.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dist_plm.errors import UserError
from dist_plm.index.faiss_library import find_faiss, missing_faiss
from dist_plm.index.proposals import Backend, Search, gpu_search, open_search
from dist_plm.index.ranking import LAST, Lattice, fill, nearest_keys
from dist_plm.index.rows import BLOCK, HeldRows, Rows

QUERY_BLOCK = 1_024
MARGIN = 8  # candidates beyond k and the query itself: gaps of 8 ranks exceed float32 noise unless there are duplicates
WIDER = 4  # times as many candidates for queries whose neighbours are not certain yet
SCANNED = 32
"""Rows scanned in float64 in the time that gathering and re-ranking one candidate takes, about: one core of a Xeon, 128
dimensions: 0.9 us a candidate, 20 to 50 ns a row."""
CANDIDATES = 2**20  # numbers gathered at a time, 8 MiB: 2^24 took twice as long on a CPU (page faults)


@torch.no_grad()
def nearest(
    queries: np.ndarray | Tensor,
    gallery: np.ndarray | Tensor,
    k: int,
    *,
    exclude: np.ndarray | Tensor | None = None,
    backend: Backend = "auto",
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows of every query, by (squared Euclidean distance, id).

    Args:
        queries: [S, D] of any floating type.
        gallery: [N, D] of any floating type, stored anywhere (memory maps included); a float32 copy is made.
        k: Neighbours of a query, at most N, or N - 1 with `exclude`.
        exclude: int64 [S], the gallery row that is the query itself.
        backend: `faiss`, `torch`, or `auto`: faiss if it is installed for the device, else torch.
        device: Device of the search.
        progress: Called with the number of queries done after every block.

    Returns:
        ids int64 [S, k] and squared distances float64 [S, k], ascending. The coordinates are read to 2^-25 of the
        gallery's radius, about float32: images that differ by less are duplicates.

    Raises:
        UserError: k exceeds the gallery, or faiss is asked for and missing.
        ValueError: An embedding is not finite.
    """
    queries, gallery = _tensor(queries), _tensor(gallery).to(device)
    query_rows = None if exclude is None else _tensor(exclude).to(gallery.device)
    reach = len(gallery) - (query_rows is not None)
    if not 1 <= k <= reach:
        raise UserError(f"{k} nearest neighbours requested from a gallery with {reach}: lower k")
    lattice = Lattice.around(gallery, queries.to(gallery.device))
    rows = HeldRows(gallery)
    index = Exact(rows, lattice, open_search(backend, lattice, rows))
    keys = torch.empty(len(queries), k, dtype=torch.int64)
    for low in range(0, len(queries), QUERY_BLOCK):
        block = slice(low, low + QUERY_BLOCK)
        excluded = None if query_rows is None else query_rows[block]
        keys[block] = index.search(queries[block].to(gallery.device), excluded, k).cpu()
        if progress:
            progress(min(low + QUERY_BLOCK, len(queries)))
    return lattice.ids(keys).numpy(), lattice.squared(keys).double().numpy() * lattice.step**2


def describe(backend: Backend, device: torch.device) -> str:
    """The search backend and the reason for it, for display."""
    faiss = find_faiss()
    if faiss is None:
        return f"torch on {device}" + ("" if backend == "torch" else f" (faiss is {missing_faiss()})")
    where = "GPU" if gpu_search(faiss) else "CPU"
    if backend == "torch" or (backend == "auto" and device.type == "cuda" and where == "CPU"):
        return f"torch on {device}" + ("" if backend == "torch" else " (this faiss has no GPU search)")
    return f"faiss {faiss.__version__} on the {where}"


class Exact:
    """Exact search over rows first..first+m-1 of a gallery.

    Args:
        rows: [m, D].
        lattice: Of the whole gallery.
        propose: A fast search over the same rows.
        first: Id of the first row.
    """

    def __init__(self, rows: Rows, lattice: Lattice, propose: Search, first: int = 0) -> None:
        self._rows, self._lattice, self._propose, self._first = rows, lattice, propose, first

    def search(self, queries: Tensor, exclude: Tensor | None, k: int) -> Tensor:
        """Keys int64 [s, k] of the k nearest of these rows, ascending, padded with LAST, without `exclude`."""
        keys = [queries.new_empty(0, k, dtype=torch.int64)]
        for low in range(0, len(queries), QUERY_BLOCK):
            block = slice(low, low + QUERY_BLOCK)
            keys.append(self._search(queries[block], None if exclude is None else exclude[block], k))
        return torch.cat(keys)

    def merge(self, keys: Tensor, exclude: Tensor, k: int) -> Tensor:
        """Keys [s, k] of the k nearest among the results of `search` in several galleries, [s, several * k]."""
        return keys.sort(1).values[:, :k]

    def scan(self, queries: Tensor, exclude: Tensor | None, k: int) -> Tensor:
        """As `search`, by the exact distance to every row: slow, but always correct."""
        best = queries.new_empty(len(queries), 0, dtype=torch.int64)
        for low, block in self._rows.blocks(BLOCK):
            keys = nearest_keys(queries, block, min(k + 1, len(block)), self._lattice)
            best = torch.cat([best, keys + (self._first + low)], 1).sort(1).values[:, : k + 1]
        return self._without(best, self._lattice.ids(best), exclude, k)

    def _search(self, queries: Tensor, exclude: Tensor | None, k: int, fetch: int = 0) -> Tensor:
        """As `search`, with `fetch` candidates for each query at first (0: slightly more than k)."""
        fetch = min(len(self._rows), fetch or k + 1 + MARGIN)
        points = self._lattice.points(queries)
        approximate, ids = self._propose(points.float(), fetch)
        exact = exact_distances(points, ids, self._rows, self._lattice)
        keys = self._lattice.keys(exact, ids + self._first)
        keys = self._without(keys, ids + self._first, exclude, k)
        if (left := ~self._sure(keys, approximate, exact)).any():
            remaining = queries[left], None if exclude is None else exclude[left], k
            few = SCANNED * WIDER * fetch <= len(self._rows)
            keys[left] = self._search(*remaining, WIDER * fetch) if few else self.scan(*remaining)
        return keys

    def _without(self, keys: Tensor, ids: Tensor, exclude: Tensor | None, k: int) -> Tensor:
        if exclude is not None:
            keys = keys.masked_fill(ids == exclude[:, None], LAST)
        keys = keys.sort(1).values[:, :k]
        return fill(keys, k)

    def _sure(self, keys: Tensor, approximate: Tensor, exact: Tensor) -> Tensor:
        """Queries for which no other row can be among the k nearest.

        A row that was not proposed lies, by the search's own distance, no nearer than the last proposed one. With unit
        roundoff u = 2^-24 the float32 distance is off by at most (D + 8) u (|a| + |b|)^2: a sum of D products, three
        norms, the rounding of the coordinates. Where products run in TF32 it is off by more: four times the largest
        error seen.
        """
        if approximate.shape[1] == len(self._rows):
            return torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        lattice = self._lattice
        bound = (self._rows.dim + 8) * 2.0**-24 * (2 * lattice.radius) ** 2
        noise = max(bound, 4 * float((approximate - exact).abs().max()))
        beyond = lattice.squared(keys[:, -1]) + (1 << lattice.shift)
        return beyond <= approximate[:, -1].double() - noise


def exact_distances(points: Tensor, ids: Tensor, rows: Rows, lattice: Lattice) -> Tensor:
    """Squared lattice distances [s, c] from points [s, D] on the lattice to rows `ids` [s, c]."""
    size = max(1, CANDIDATES // (max(1, ids.shape[1]) * rows.dim))
    pieces = zip(points.split(size), ids.split(size), strict=True)
    return torch.cat([lattice.points(rows.take(i)).sub_(p[:, None]).square_().sum(2) for p, i in pieces])


def _tensor(values: np.ndarray | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a read-only memory map, which is only read
        return torch.from_numpy(values)

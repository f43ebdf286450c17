"""Exact nearest neighbours over a whole gallery, by FAISS or by torch, with the same answer from both.

A fast float32 search proposes slightly more candidates than asked for; their exact distances decide, ties by id.
Queries for which rounding may have hidden a neighbour (heavy duplicates) are answered by an exact scan.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dist_plm.errors import UserError
from dist_plm.evaluation.ranking import LAST, Lattice, nearest_keys

Backend = Literal["auto", "faiss", "torch"]
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # float32 [s, D], fetch -> squared distances, ids [s, fetch]

QUERY_BLOCK = 1_024
GALLERY_BLOCK = 65_536  # x 1,024 queries x 4 B = 256 MiB of distances
MARGIN = 8  # candidates beyond k and the query itself: gaps of 8 ranks exceed float32 noise unless there are duplicates
GPU_TEMPORARY_BYTES = 256 << 20  # FAISS takes 1.5 GiB otherwise
GPU_MOST_CANDIDATES = 2_048  # limit of FAISS's selection on the GPU


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
        backend: `faiss`, `torch`, or `auto`: faiss where it is installed for the device, else torch.
        device: Where the gallery is held and searched.
        progress: Called with the number of queries done after every block.

    Returns:
        ids int64 [S, k] and squared distances float64 [S, k], ascending. The coordinates are read to 2^-25 of the
        gallery's radius, about float32: images that differ by less are duplicates.

    Raises:
        UserError: k exceeds the gallery, or faiss is asked for and missing.
        ValueError: An embedding is not finite.
    """
    queries, gallery = _tensor(queries), _tensor(gallery).to(device)
    own = None if exclude is None else _tensor(exclude).to(gallery.device)
    reach = len(gallery) - (own is not None)
    if not 1 <= k <= reach:
        raise UserError(f"{k} nearest neighbours asked of a gallery that has 1 to {reach} to give: change k")
    lattice = Lattice.around(gallery, queries.to(gallery.device))
    fetch = min(len(gallery), k + 1 + MARGIN)
    search = _open(backend, lattice, gallery, fetch)
    found = torch.empty(len(queries), k, dtype=torch.int64)
    for low in range(0, len(queries), QUERY_BLOCK):
        rows = slice(low, low + QUERY_BLOCK)
        block, block_own = queries[rows].to(gallery.device), None if own is None else own[rows]
        keys, sure = _settle(lattice, gallery, block, block_own, k, *search(lattice.points(block).float(), fetch))
        if not sure.all():
            left = ~sure
            keys[left] = nearest_keys(block[left], gallery, k, lattice, None if block_own is None else block_own[left])
        found[rows] = keys.cpu()
        if progress:
            progress(low + len(block))
    return lattice.ids(found).numpy(), lattice.squared(found).double().numpy() * lattice.step**2


def describe(backend: Backend, device: torch.device) -> str:
    """Which search `nearest` will run, and why, for people."""
    try:
        import faiss
    except ImportError:
        return f"torch on {device}" + ("" if backend == "torch" else " (faiss is not installed)")
    where = "GPU" if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 else "CPU"
    if backend == "torch" or (backend == "auto" and device.type == "cuda" and where == "CPU"):
        return f"torch on {device}" + ("" if backend == "torch" else " (this faiss has no GPU search)")
    return f"faiss {faiss.__version__} on the {where}"


def _settle(
    lattice: Lattice, gallery: Tensor, queries: Tensor, own: Tensor | None, k: int, approximate: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys of the k nearest candidates, and for which queries no other image can be among the k nearest.

    A row that was not proposed lies, by the search's own distance, no nearer than the last proposed one. With unit
    roundoff u = 2^-24 the float32 distance is off by at most (D + 8) u (|a| + |b|)^2: a sum of D products, three norms,
    the rounding of the coordinates. Where products run in TF32 it is off by more: four times the largest error seen.
    """
    points, fetch = lattice.points(queries), ids.shape[1]
    rows = max(1, 2**24 // (fetch * points.shape[1]))  # 128 MiB of candidates in float64
    pieces = zip(points.split(rows), ids.split(rows), strict=True)
    exact = torch.cat([(p[:, None] - lattice.points(gallery[i])).square_().sum(2) for p, i in pieces])
    keys = lattice.keys(exact, ids)
    if own is not None:
        keys.masked_fill_(ids == own[:, None], LAST)
    keys = keys.sort(1).values[:, :k]
    if fetch == len(gallery):
        return keys, torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    bound = (points.shape[1] + 8) * 2.0**-24 * (2 * lattice.radius) ** 2
    noise = max(bound, 4 * float((approximate - exact).abs().max()))
    beyond = lattice.squared(keys[:, -1]) + (1 << lattice.shift)
    return keys, beyond <= approximate[:, -1].double() - noise


def _open(backend: Backend, lattice: Lattice, gallery: Tensor, fetch: int) -> Search:
    if backend == "torch":
        return _open_torch(lattice, gallery)
    try:
        import faiss
    except ImportError:
        if backend == "auto":
            return _open_torch(lattice, gallery)
        raise UserError(
            "runtime.index is faiss, which is not installed: "
            "pip install faiss-cpu (or faiss-gpu), or set runtime.index to torch"
        ) from None
    on_gpu = gallery.is_cuda and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    on_gpu = on_gpu and fetch <= GPU_MOST_CANDIDATES
    if gallery.is_cuda and not on_gpu and backend == "auto":
        return _open_torch(lattice, gallery)
    return _open_faiss(faiss, lattice, gallery, on_gpu)


def _open_faiss(faiss: Any, lattice: Lattice, gallery: Tensor, on_gpu: bool) -> Search:
    if on_gpu:
        resources, config = faiss.StandardGpuResources(), faiss.GpuIndexFlatConfig()
        resources.setTempMemory(GPU_TEMPORARY_BYTES)
        config.device = gallery.device.index or 0
        index = faiss.GpuIndexFlatL2(resources, gallery.shape[1], config)
    else:
        index = faiss.IndexFlatL2(gallery.shape[1])
    for block in gallery.split(GALLERY_BLOCK):
        index.add(lattice.points(block).float().cpu().numpy())

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        squared, ids = index.search(queries.cpu().numpy(), fetch)
        return torch.from_numpy(squared).to(queries.device), torch.from_numpy(ids).to(queries.device)

    return search


def _open_torch(lattice: Lattice, gallery: Tensor) -> Search:
    points = torch.empty(gallery.shape, dtype=torch.float32, device=gallery.device)
    for low in range(0, len(gallery), GALLERY_BLOCK):
        points[low : low + GALLERY_BLOCK] = lattice.points(gallery[low : low + GALLERY_BLOCK])
    norms = points.square().sum(1)

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        best = torch.empty(len(queries), 0, device=points.device)
        ids = torch.empty(len(queries), 0, dtype=torch.int64, device=points.device)
        for low in range(0, len(points), GALLERY_BLOCK):
            high = min(low + GALLERY_BLOCK, len(points))
            partial = torch.addmm(norms[low:high], queries, points[low:high].T, alpha=-2)
            near = partial.topk(min(fetch, high - low), dim=1, largest=False)
            best, ids = torch.cat([best, near.values], 1), torch.cat([ids, near.indices + low], 1)
            best, order = best.topk(min(fetch, best.shape[1]), dim=1, largest=False)
            ids = ids.gather(1, order)
        return best + queries.square().sum(1, keepdim=True), ids

    return search


def _tensor(values: np.ndarray | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a read-only memory map is not writable: it is only read
        return torch.from_numpy(values)

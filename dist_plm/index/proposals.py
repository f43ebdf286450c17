"""Fast float32 search for candidates by FAISS or torch, to be re-ranked exactly."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from dist_plm.index.faiss_library import find_faiss, require_faiss
from dist_plm.index.ranking import Lattice
from dist_plm.index.rows import BLOCK, Rows
from dist_plm.manifold.precision import ieee_products

Backend = Literal["auto", "faiss", "torch"]
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # float32 [s, D], fetch -> squared distances, ids [s, fetch]

LEAST_PRODUCT = 4_096  # numbers; a single query stays below
GPU_TEMPORARY_BYTES = 256 << 20  # FAISS takes 1.5 GiB otherwise
GPU_MOST_CANDIDATES = 2_048  # limit of FAISS's selection on the GPU


def open_search(backend: Backend, lattice: Lattice, rows: Rows) -> Search:
    """A search over all rows, which it copies in float32.

    Raises:
        UserError: faiss is requested and missing.
    """
    if backend == "torch":
        return search_by_torch(lattice, rows)
    faiss = find_faiss() if backend == "auto" else require_faiss("index.backend faiss", ", or set it to torch")
    if faiss is None:
        return search_by_torch(lattice, rows)
    on_gpu = rows.device.type == "cuda" and gpu_search(faiss)
    if rows.device.type == "cuda" and not on_gpu and backend == "auto":
        return search_by_torch(lattice, rows)
    return _search_by_faiss(faiss, lattice, rows, on_gpu)


def search_by_torch(lattice: Lattice, rows: Rows, *, copy: bool = True) -> Search:
    """A search by matrix products; without `copy`, every call streams the rows in blocks."""

    def read() -> Iterator[tuple[int, Tensor]]:
        for low, block in rows.blocks(BLOCK):
            yield low, lattice.points(block).float()

    copied = list(read()) if copy else None

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        best = torch.empty(len(queries), 0, device=queries.device)
        ids = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for low, points in copied or read():
            with ieee_products():  # the bound of `Exact` is that of float32
                partial = torch.addmm(points.square().sum(1), queries, points.T, alpha=-2)
            near = partial.topk(min(fetch, len(points)), dim=1, largest=False)
            best, ids = torch.cat([best, near.values], 1), torch.cat([ids, near.indices + low], 1)
            best, order = best.topk(min(fetch, best.shape[1]), dim=1, largest=False)
            ids = ids.gather(1, order)
        return best + queries.square().sum(1, keepdim=True), ids

    return search


def gpu_search(faiss: Any) -> bool:
    """Whether this FAISS has GPU support and there is a GPU."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


@cache
def gpu_resources() -> Any:
    """FAISS's scratch memory and streams on this process's GPU: shared by all indices, of bounded size."""
    resources = find_faiss().StandardGpuResources()
    resources.setTempMemory(GPU_TEMPORARY_BYTES)
    return resources


def prepare(faiss: Any) -> None:
    """Set FAISS's process-wide options."""
    # By default FAISS uses all cores in every rank.
    faiss.omp_set_num_threads(torch.get_num_threads())
    # Queries x dimension from which distances are a product of matrices, 128,000 in faiss 1.15: blocks of 1,024 queries
    # in less than 125 dimensions took seven times as long (24 ns a comparison in 64 dimensions, not 3.4).
    faiss.cvar.distance_compute_blas_threshold = LEAST_PRODUCT


def _search_by_faiss(faiss: Any, lattice: Lattice, rows: Rows, on_gpu: bool) -> Search:
    if on_gpu:
        config = faiss.GpuIndexFlatConfig()
        config.device = rows.device.index or 0
        index = faiss.GpuIndexFlatL2(gpu_resources(), rows.dim, config)
    else:
        prepare(faiss)
        index = faiss.IndexFlatL2(rows.dim)
        # A growing vector is copied while the old one exists; a cleared one keeps its capacity.
        index.codes.resize(len(rows) * rows.dim * 4)
        index.codes.resize(0)
    for _, block in rows.blocks(BLOCK):
        index.add(lattice.points(block).float().cpu().numpy())
    streamed = search_by_torch(lattice, rows, copy=False)

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        if on_gpu and fetch > GPU_MOST_CANDIDATES:
            return streamed(queries, fetch)
        squared, ids = index.search(queries.cpu().numpy(), fetch)
        return torch.from_numpy(squared).to(queries.device), torch.from_numpy(ids).to(queries.device)

    return search

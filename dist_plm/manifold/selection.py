"""Steps 1 to 4 of section 3.2: which of the k neighbours join X_i, on Gram matrices of k + 1 vectors alone.

`select` is one batched torch program, and one kernel on a GPU: there each of its k - m rounds would cost a dozen small
kernels and a synchronisation for the error code of the eigendecomposition.
"""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    """X_i of B points and its principal directions as combinations of the k + 1 vectors.

    Args:
        members: [B, k + 1] bool.
        eigenvalues: [B, M] of the members' Gram matrix, largest first; 0 for those within rounding of 0.
        vectors: [B, k + 1, M] orthonormal eigenvectors A_m, up to their signs.
    """

    members: Tensor
    eigenvalues: Tensor
    vectors: Tensor


class _Spectrum(NamedTuple):
    """PCA of the members of X_i: |v_a|^2, eigenvalues in ascending order, eigenvectors, floor (below it: 0)."""

    norms: Tensor
    eigenvalues: Tensor
    vectors: Tensor
    floor: Tensor


def select(gram: Tensor, noise: Tensor, *, dim: int, centre: str, allowed: float) -> Selection:
    """X_i for all points, on the device of `gram`.

    Args:
        gram: [B, k + 1, k + 1], K_ab = v_a'v_b of a point and its neighbours, nearest first.
        noise: [B, 1], what of |v|^2 may be rounding.
        dim: m; X_i starts as the first m.
        centre: `mean` centres the members on their mean.
        allowed: A member passes where |v - UU'v|^2 <= allowed |v|^2.
    """
    kernel = _kernel(gram.device) if gram.is_cuda and gram.dtype == torch.float32 else None
    if kernel and gram.shape[1] <= kernel.MOST:
        return Selection(*kernel.select(gram, noise, dim=dim, centre=centre, allowed=allowed))
    return select_batched(gram, noise, dim=dim, centre=centre, allowed=allowed)


@cache
def _kernel(device: torch.device) -> ModuleType | None:
    """The kernel's module if a small test launch succeeds, else None.

    Triton builds its launchers with a C compiler and the headers of Python, either of which may be missing, and may not
    support the GPU: only a launch tells.
    """
    if not find_spec("triton"):
        return None
    try:
        kernel = import_module("dist_plm.manifold.selection_kernel")
        gram = torch.eye(4, device=device)[None]
        kernel.select(gram, torch.zeros(1, 1, device=device), dim=2, centre="mean", allowed=0.1)
        torch.cuda.synchronize(device)
    except Exception as error:  # of Triton, its compiler or the driver
        reason = str(error).strip().splitlines() or [repr(error)]
        warnings.warn(f"neighbours are selected without the Triton kernel, more slowly: {reason[-1]}", stacklevel=2)
        return None
    return kernel


def select_batched(gram: Tensor, noise: Tensor, *, dim: int, centre: str, allowed: float) -> Selection:
    """`select` in torch: one candidate a round for all points at once."""
    # T = 0 accepts everything: vectors orthogonal to U must not fail by rounding.
    members = torch.full_like(gram[:, 0], allowed >= 1, dtype=torch.bool)
    members[:, :dim] = True
    for j in range(dim, 0 if allowed >= 1 else members.shape[1]):
        trial = members.clone()
        trial[:, j] = True
        members[:, j] = _fits(_pca(gram, trial, noise, centre), dim, allowed)
    pca = _pca(gram, members, noise, centre)
    return Selection(members, pca.eigenvalues[:, -dim:].flip(1), pca.vectors[:, :, -dim:].flip(2))


def _pca(gram: Tensor, members: Tensor, noise: Tensor, centre: str) -> _Spectrum:
    """Eigendecomposition K = A Lambda A' of the Gram matrix K_ab = v_a'v_b of the members, 0 for all others.

    It costs (k+1)^3 where PCA in D dimensions would cost (k+1)^2 D. Values below the floor count as 0: rounding
    in x leaves |v| = 64 eps |x| between duplicates, rounding in K leaves eps (k+1) lambda_max in any eigenvalue.
    """
    mask = members.to(gram.dtype)
    if centre == "mean":
        mean = gram @ (mask / mask.sum(dim=1, keepdim=True))[:, :, None]
        gram = gram - mean - mean.mT + (mask[:, None] @ mean) / mask.sum(dim=1)[:, None, None]
    gram = gram * (mask[:, :, None] * mask[:, None, :])
    eigenvalues, vectors = _eigh(gram)
    relative = torch.finfo(gram.dtype).eps * gram.shape[1]
    floor = torch.maximum(noise, relative * eigenvalues[:, -1:])
    eigenvalues = eigenvalues.masked_fill(eigenvalues <= floor, 0)
    return _Spectrum(gram.diagonal(dim1=1, dim2=2), eigenvalues, vectors, floor)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition of each matrix of [B, k + 1, k + 1], whatever the others are.

    In float32, LAPACK's divide and conquer fails on some matrices whose rows are mostly 0 (with 20 neighbours in 1 of
    200 batches, with 30 in most), in float64 on none that were seen.
    """
    try:
        return torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:
        if len(gram) == 1:
            eigenvalues, vectors = torch.linalg.eigh(gram.double())
            return eigenvalues.to(gram.dtype), vectors.to(gram.dtype)
        values, vectors = zip(*(_eigh(matrix) for matrix in gram.split(1)), strict=True)
        return torch.cat(values), torch.cat(vectors)


def _fits(pca: _Spectrum, dim: int, allowed: float) -> Tensor:
    """Whether the top-m basis U reconstructs every member, |v_a - UU'v_a|^2 <= allowed |v_a|^2 -> [B] bool.

    With V the rows v_a', V = A Lambda^1/2 W' and U = V'A_m Lambda_m^-1/2, so that U'v_a = Lambda_m^1/2 (A_m)_a and
    |U'v_a|^2 = sum over the top m of lambda A_a^2. The other eigenvectors hold the rest.
    """
    rest = (pca.vectors[:, :, :-dim].square() @ pca.eigenvalues[:, :-dim, None]).squeeze(2)
    return ((pca.norms <= pca.floor) | (rest <= allowed * pca.norms)).all(dim=1)

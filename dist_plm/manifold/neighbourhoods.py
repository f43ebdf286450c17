"""Section 3.2: the linear neighbourhood P_i of every point, by PCA on those of its k nearest neighbours that fit it."""

from typing import NamedTuple

import torch
from torch import Tensor

from dist_plm.manifold.basis import orthonormal
from dist_plm.manifold.distance import distance
from dist_plm.manifold.precision import full_precision

CENTRES = ("anchor", "origin", "mean")
CRITERIA = ("energy", "norm")


class Neighbourhoods(NamedTuple):
    """Linear neighbourhoods of B points; column 0 of members and indices is the point itself.

    Args:
        basis: [B, D, M] orthonormal columns of P_i, strongest first; zero columns where X_i has a lower rank.
        members: [B, k + 1] bool, which of the neighbours are in X_i.
        indices: [B, k + 1] int64, rows of the candidates, nearest first; -1 for a point that is no candidate.
    """

    basis: Tensor
    members: Tensor
    indices: Tensor


class _Spectrum(NamedTuple):
    """PCA of the members of X_i: |v_a|^2, eigenvalues in ascending order, eigenvectors A, and what is told from 0."""

    norms: Tensor
    eigenvalues: Tensor
    vectors: Tensor
    floor: Tensor


@torch.no_grad()
@full_precision
def linear_neighbourhoods(
    points: Tensor,
    *,
    k: int,
    dim: int,
    threshold: float,
    centre: str = "anchor",
    criterion: str = "energy",
    candidates: Tensor | None = None,
    rows: Tensor | None = None,
) -> Neighbourhoods:
    """Construct P_i for points [B, D]: X_i starts as x_i and its m - 1 nearest, the others join in turn if all fit.

    Args:
        points: [B, D] embeddings by the momentum encoder, float32 or float64.
        k: Nearest neighbours that may join X_i; ties break by row.
        dim: m, the dimension of P_i.
        threshold: T in [0, 1], the quality with which U must reconstruct v_a = x_a - centre for every a of X_i.
        centre: Where the PCA is centred: the point itself (`anchor`), the `origin` or the `mean` of X_i.
        criterion: `energy`: |UU'v|^2 / |v|^2 >= T. `norm`: |v - UU'v| / |v| <= 1 - T. v = 0 passes both.
        candidates: [G, D] where neighbours come from; the points themselves by default.
        rows: [B] int64, the row of each point in candidates; -1 for none. By default the first candidate equal to it.

    Returns:
        Constants, without gradient. Raises ValueError for arguments that are out of range or do not fit.
    """
    if rows is None and candidates is None:
        rows = torch.arange(points.shape[0], device=points.device)
    candidates = points if candidates is None else candidates
    _check(points, candidates, rows, k, dim, threshold, centre, criterion)
    indices = _nearest(points, candidates, k, rows)
    x = torch.cat([points[:, None], candidates[indices[:, 1:]]], dim=1)
    v = x if centre == "origin" else x - points[:, None]
    gram = v @ v.mT
    noise = (64 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(points, dim=1, keepdim=True)).square()
    allowed = 1 - threshold if criterion == "energy" else (1 - threshold) ** 2
    members = _select(gram, noise, dim, centre, allowed)
    return Neighbourhoods(_basis(v, _pca(gram, members, noise, centre), dim), members, indices)


def _nearest(points: Tensor, candidates: Tensor, k: int, rows: Tensor | None) -> Tensor:
    """The point's own row and its k nearest other candidates, by (distance, row) -> [B, k + 1]."""
    d = distance(points, candidates)
    if rows is None:
        equal = d == 0
        rows = torch.where(equal.any(dim=1), equal.int().argmax(dim=1), -1)
    own = rows[:, None] == torch.arange(candidates.shape[0], device=rows.device)
    order = d.masked_fill(own, torch.inf).sort(dim=1, stable=True).indices
    return torch.cat([rows[:, None], order[:, :k]], dim=1)


def _select(gram: Tensor, noise: Tensor, dim: int, centre: str, allowed: float) -> Tensor:
    """Steps 1 to 4 of section 3.2 for all points at once, one candidate a round -> members [B, k + 1]."""
    if allowed >= 1:  # T = 0 asks for nothing: what is orthogonal to U must not fail it by rounding
        return torch.ones_like(gram[:, 0], dtype=torch.bool)
    members = torch.zeros_like(gram[:, 0], dtype=torch.bool)
    members[:, :dim] = True
    for j in range(dim, members.shape[1]):
        trial = members.clone()
        trial[:, j] = True
        members[:, j] = _fits(_pca(gram, trial, noise, centre), dim, allowed)
    return members


def _pca(gram: Tensor, members: Tensor, noise: Tensor, centre: str) -> _Spectrum:
    """Eigendecomposition K = A Lambda A' of the Gram matrix K_ab = v_a'v_b of the members, 0 for all others.

    It costs (k+1)^3 where PCA in D dimensions would cost (k+1)^2 D. Nothing below the floor is told from 0: rounding
    in x leaves |v| = 64 eps |x| between duplicates, rounding in K leaves eps (k+1) lambda_max in any eigenvalue.
    """
    mask = members.to(gram.dtype)
    if centre == "mean":
        mean = gram @ (mask / mask.sum(dim=1, keepdim=True))[:, :, None]
        gram = gram - mean - mean.mT + (mask[:, None] @ mean) / mask.sum(dim=1)[:, None, None]
    gram = gram * (mask[:, :, None] * mask[:, None, :])
    eigenvalues, vectors = torch.linalg.eigh(gram)
    relative = torch.finfo(gram.dtype).eps * gram.shape[1]
    floor = torch.maximum(noise, relative * eigenvalues[:, -1:])
    eigenvalues = eigenvalues.masked_fill(eigenvalues <= floor, 0)
    return _Spectrum(gram.diagonal(dim1=1, dim2=2), eigenvalues, vectors, floor)


def _fits(pca: _Spectrum, dim: int, allowed: float) -> Tensor:
    """Whether the top-m basis U reconstructs every member, |v_a - UU'v_a|^2 <= allowed |v_a|^2 -> [B] bool.

    With V the rows v_a', V = A Lambda^1/2 W' and U = V'A_m Lambda_m^-1/2, so that U'v_a = Lambda_m^1/2 (A_m)_a and
    |U'v_a|^2 = sum over the top m of lambda A_a^2. The other eigenvectors hold the rest.
    """
    rest = (pca.vectors[:, :, :-dim].square() @ pca.eigenvalues[:, :-dim, None]).squeeze(2)
    return ((pca.norms <= pca.floor) | (rest <= allowed * pca.norms)).all(dim=1)


def _basis(v: Tensor, pca: _Spectrum, dim: int) -> Tensor:
    """U = V'A_m Lambda_m^-1/2, strongest first, zero columns for zero eigenvalues -> [B, D, M].

    U_m inherits a relative error of eps lambda_max / lambda_m from K: orthonormalised, o^2 + p^2 = d^2 still holds.
    """
    eigenvalues, vectors = pca.eigenvalues[:, -dim:].flip(1), pca.vectors[:, :, -dim:].flip(2)
    scale = eigenvalues.rsqrt().masked_fill(eigenvalues == 0, 0)
    return orthonormal(v.mT @ (vectors * scale[:, None]))


def _check(
    points: Tensor,
    candidates: Tensor,
    rows: Tensor | None,
    k: int,
    dim: int,
    threshold: float,
    centre: str,
    criterion: str,
) -> None:
    if points.ndim != 2 or candidates.ndim != 2 or points.shape[1] != candidates.shape[1]:
        shapes = f"{list(points.shape)} and {list(candidates.shape)}"
        raise ValueError(f"points [B, D] and candidates [G, D] expected, got {shapes}")
    if rows is not None and (rows.shape != points.shape[:1] or rows.dtype != torch.int64):
        raise ValueError(f"rows must be int64 [{points.shape[0]}], got {rows.dtype} {list(rows.shape)}")
    if not 1 <= dim <= points.shape[1]:
        raise ValueError(f"dim = {dim} must be between 1 and the embedding dimension {points.shape[1]}")
    if not dim <= k < candidates.shape[0]:
        raise ValueError(f"k = {k} must be at least dim = {dim} and less than the {candidates.shape[0]} candidates")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold = {threshold} must be a quality between 0 and 1")
    if centre not in CENTRES or criterion not in CRITERIA:
        raise ValueError(f"centre is one of {CENTRES} and criterion one of {CRITERIA}, not {centre!r}, {criterion!r}")

"""Section 3.2: the linear neighbourhood P_i of every point, by PCA on those of its k nearest neighbours that fit it.

Neighbours are searched among candidates (`linear_neighbourhoods`, the points of a batch) or come from elsewhere
(`neighbourhoods_among`, the nearest images of the whole data set).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dist_plm.manifold.basis import orthonormal
from dist_plm.manifold.distance import distance
from dist_plm.manifold.precision import full_precision
from dist_plm.manifold.selection import Selection, select

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
    distances: Tensor | None = None,
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
        distances: [B, G] from the points to the candidates, where they are known.

    Returns:
        Constants, without gradient. Raises ValueError for arguments that are out of range or do not fit.
    """
    if rows is None and candidates is None:
        rows = torch.arange(points.shape[0], device=points.device)
    candidates = points if candidates is None else candidates
    _check(points, candidates, rows, k, dim, threshold, centre, criterion)
    indices = nearest_candidates(points, candidates, k, rows, distances)
    basis, members = neighbourhoods_among(
        points, candidates[indices[:, 1:]], dim=dim, threshold=threshold, centre=centre, criterion=criterion
    )
    return Neighbourhoods(basis, members, indices)


@torch.no_grad()
@full_precision
def neighbourhoods_among(
    points: Tensor,
    neighbours: Tensor,
    *,
    dim: int,
    threshold: float,
    centre: str = "anchor",
    criterion: str = "energy",
) -> tuple[Tensor, Tensor]:
    """P_i of points [B, D] from neighbours [B, k, D] that are given, in the order in which they may join X_i.

    Returns:
        basis [B, D, M] and members [B, k + 1] as in `Neighbourhoods`, column 0 of members is the point itself. Raises
        ValueError for half precision.
    """
    x = torch.cat([points[:, None], neighbours], dim=1)
    v = x if centre == "origin" else x - points[:, None]
    gram = v @ v.mT
    noise = (64 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(points, dim=1, keepdim=True)).square()
    allowed = 1 - threshold if criterion == "energy" else (1 - threshold) ** 2
    selection = select(gram, noise, dim=dim, centre=centre, allowed=allowed)
    return _basis(v, selection), selection.members


@torch.no_grad()
@full_precision
def nearest_candidates(
    points: Tensor, candidates: Tensor, k: int, rows: Tensor | None, distances: Tensor | None = None
) -> Tensor:
    """The row of each point [B, D] in candidates [G, D], then its k nearest others by (distance, row) -> [B, k + 1].

    The row is -1 for a point that is none of them; without `rows` it is the first candidate equal to the point.
    """
    d = distance(points, candidates) if distances is None else distances
    if rows is None:
        equal = d == 0
        rows = torch.where(equal.any(dim=1), equal.int().argmax(dim=1), -1)
    is_self = rows[:, None] == torch.arange(candidates.shape[0], device=rows.device)
    order = d.masked_fill(is_self, torch.inf).sort(dim=1, stable=True).indices
    return torch.cat([rows[:, None], order[:, :k]], dim=1)


def _basis(v: Tensor, selection: Selection) -> Tensor:
    """U = V'A_m Lambda_m^-1/2, strongest first, zero columns for zero eigenvalues -> [B, D, M].

    U_m inherits a relative error of eps lambda_max / lambda_m from K: orthonormalised, o^2 + p^2 = d^2 still holds.
    """
    scale = selection.eigenvalues.rsqrt().masked_fill(selection.eigenvalues == 0, 0)
    return orthonormal(v.mT @ (selection.vectors * scale[:, None]))


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

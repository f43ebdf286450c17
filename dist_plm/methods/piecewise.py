"""Neighbourhoods and similarity of the piecewise-linear manifold, as configured."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dist_plm.config import ManifoldConfig
from dist_plm.manifold import (
    Neighbourhoods,
    linear_neighbourhoods,
    mean_of_members,
    neighbourhoods_among,
    point_similarity,
    project,
    proxy_similarity,
)
from dist_plm.manifold.distance import distance
from dist_plm.manifold.membership import member_similarity, nearest_points_similarity
from dist_plm.telemetry.parts import part


class Pieces(NamedTuple):
    """Local neighbourhoods (pieces P_i) of a rank's b points.

    Args:
        basis: [b, D, M].
        members: [b, K + 1] bool, which of its K candidates are members (X_i); column 0 is the point itself.
        projected: [b, D], the points on their pieces; the points themselves unless `manifold.project`.
        indices: int64 [b, K + 1], rows of the candidates in the batch; None if neighbours are not in the batch.
        distances: [b, G] to the candidates in the batch, likewise.
    """

    basis: Tensor
    members: Tensor
    projected: Tensor
    indices: Tensor | None
    distances: Tensor | None


def batch_pieces(x: Tensor, candidates: Tensor, rows: Tensor, config: ManifoldConfig) -> Pieces:
    """P_i of points x [b, D] that are `rows` of `candidates` [G, D], points of the batch (section 3.2)."""
    with part("neighbourhoods"):
        d = distance(x, candidates)
    hoods = neighbourhoods(x, candidates, rows, config, d)
    neighbours = candidates[hoods.indices[:, 1:]] if config.project else None
    projected = x if neighbours is None else project(x, hoods.basis, mean_of_members(x, neighbours, hoods.members))
    return Pieces(hoods.basis, hoods.members, projected, hoods.indices, d)


def gallery_pieces(x: Tensor, neighbours: Tensor, views: int, config: ManifoldConfig) -> Pieces:
    """P_i of points x [b, D], image by image, from the k nearest training images of their image [b / views, k, D].

    With a piece per view, its other views are the first members. In batches of single images the nearest neighbour of
    a view is its other view, so that the direction between the two is in P_i and the pair attracts; without them X_i
    would lack that direction.
    """
    images = x.reshape(-1, views, x.shape[1])
    if config.piece == "image":
        anchors, possible = images.mean(1), neighbours
    else:
        others = [torch.roll(images, -shift, 1)[:, :, None] for shift in range(1, views)]
        possible = torch.cat([*others, neighbours[:, None].expand(-1, views, -1, -1)], 2).flatten(0, 1)
        anchors = x
    with part("neighbourhoods"):
        basis, members = neighbourhoods_among(anchors, possible, **_selection(config))
    mean = mean_of_members(anchors, possible, members) if config.project else anchors
    if config.piece == "image":
        basis, members, mean = (tensor.repeat_interleave(views, dim=0) for tensor in (basis, members, mean))
    return Pieces(basis, members, project(x, basis, mean) if config.project else x, None, None)


def neighbourhoods(
    x: Tensor, candidates: Tensor, rows: Tensor, config: ManifoldConfig, distances: Tensor | None = None
) -> Neighbourhoods:
    """P_i of points x [b, D] that are `rows` of `candidates` [G, D] (section 3.2); `distances` [b, G] if known."""
    with part("neighbourhoods"):
        return linear_neighbourhoods(
            x, k=config.k, candidates=candidates, rows=rows, distances=distances, **_selection(config)
        )


def _selection(config: ManifoldConfig) -> dict[str, Any]:
    """Settings by which neighbours are selected as members of X_i."""
    return {
        "dim": config.dim,
        "threshold": config.threshold,
        "centre": config.centre,
        "criterion": config.criterion,
    }


def member_ids(hoods: Pieces | Neighbourhoods) -> Tensor:
    """Members (X_i) as int64 [b, k + 1], rows of the batch, -1 for candidates that are not members."""
    assert hoods.indices is not None  # a binary similarity needs neighbours in the batch
    return hoods.indices.masked_fill(~hoods.members, -1)


def similarity(
    x: Tensor,
    basis: Tensor,
    members: Tensor | None,
    rows: Tensor,
    config: ManifoldConfig,
    distances: Tensor | None = None,
) -> Tensor:
    """s_ij of the points `rows` [b] to all G -> [b, G] (section 3.3).

    Args:
        x: [G, D].
        basis: [G, D, M].
        members: `member_ids` [G, k + 1]; only a binary similarity needs them.
        rows: int64 [b].
        config: Selects the similarity.
        distances: [b, G], where they are known.
    """
    if members is not None and config.similarity == "binary":
        return member_similarity(members, rows).to(x.dtype)
    decay = {"n_alpha": config.n_alpha, "n_beta": config.n_beta}
    return point_similarity(x[rows], basis[rows], columns=x, column_basis=basis, distances=distances, **decay)


def similarity_to_proxies(x: Tensor, basis: Tensor, rho: Tensor, psi: Tensor, config: ManifoldConfig) -> Tensor:
    """s(x_i, rho_j) of all points to some proxies -> [G, P] (section 3.5)."""
    if config.similarity == "binary":
        return nearest_points_similarity(x, rho, config.k)
    return proxy_similarity(x, basis, rho, psi, n_alpha=config.n_alpha, n_beta=config.n_beta)

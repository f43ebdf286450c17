"""The piecewise-linear manifold as configured: neighbourhoods, and the similarity that they give, graded or binary."""

from torch import Tensor

from dist_plm.config import ManifoldConfig
from dist_plm.manifold import Neighbourhoods, linear_neighbourhoods, point_similarity, proxy_similarity
from dist_plm.manifold.membership import member_similarity, nearest_points_similarity
from dist_plm.telemetry.parts import part


def neighbourhoods(x: Tensor, candidates: Tensor, rows: Tensor, config: ManifoldConfig) -> Neighbourhoods:
    """P_i of points x [b, D] that are `rows` of `candidates` [G, D] (section 3.2)."""
    with part("neighbourhoods"):
        return linear_neighbourhoods(
            x,
            k=config.k,
            dim=config.dim,
            threshold=config.threshold,
            centre=config.centre,
            criterion=config.criterion,
            candidates=candidates,
            rows=rows,
        )


def member_ids(found: Neighbourhoods) -> Tensor:
    """X_i as int64 [b, k + 1], -1 for the neighbours that are not in it."""
    return found.indices.masked_fill(~found.members, -1)


def similarity(x: Tensor, basis: Tensor, members: Tensor | None, rows: Tensor, config: ManifoldConfig) -> Tensor:
    """s_ij of the points `rows` [b] to all G -> [b, G] (section 3.3).

    Args:
        x: [G, D].
        basis: [G, D, M].
        members: `member_ids` [G, k + 1]; only a binary similarity needs them.
        rows: int64 [b].
        config: Says which similarity.
    """
    if members is not None and config.similarity == "binary":
        return member_similarity(members, rows).to(x.dtype)
    decay = {"n_alpha": config.n_alpha, "n_beta": config.n_beta}
    return point_similarity(x[rows], basis[rows], columns=x, column_basis=basis, **decay)


def similarity_to_proxies(x: Tensor, basis: Tensor, rho: Tensor, psi: Tensor, config: ManifoldConfig) -> Tensor:
    """s(x_i, rho_j) of all points to some proxies -> [G, P] (section 3.5)."""
    if config.similarity == "binary":
        return nearest_points_similarity(x, rho, config.k)
    return proxy_similarity(x, basis, rho, psi, n_alpha=config.n_alpha, n_beta=config.n_beta)

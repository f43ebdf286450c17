"""Sections 3.3 and 3.5: similarity from the distance across (o) and along (p) a linear neighbourhood."""

import torch
from torch import Tensor

from dist_plm.manifold.distance import distance, root
from dist_plm.manifold.precision import full_precision


def alpha(o: Tensor, n_alpha: float) -> Tensor:
    """Equation 3: 1 / (1 + o / 2)^N_alpha, decay across the neighbourhood."""
    return (1 + o / 2) ** -n_alpha


def beta(p: Tensor, n_beta: float) -> Tensor:
    """Equation 4: 1 / (1 + p)^N_beta, decay along the neighbourhood."""
    return (1 + p) ** -n_beta


def along(x: Tensor, y: Tensor, basis: Tensor) -> Tensor:
    """p_ij = |U_j'(x_i - y_j)| for x [B, D], y [G, D] and U_j = basis[j] of [G, D, M] -> [B, G].

    One basis vector at a time, so that nothing larger than [B, G] is made.
    """
    squared = x.new_zeros(x.shape[0], y.shape[0])
    for u in basis.unbind(dim=2):
        squared = squared + (x @ u.mT - (y * u).sum(dim=1)).square()
    return root(squared)


def across(d: Tensor, p: Tensor) -> Tensor:
    """o_ij, what is left of the distance d_ij off the neighbourhood: o^2 + p^2 = d^2.

    The members that span P_j lie on it: o = 0. Rounding leaves o^2 of a few eps d (d + |x|), |x| = 1, whose root is
    1e-8 in float64 and 5e-4 in float32, different for every shape of the products; below that o is 0.
    """
    squared = d.square() - p.square()
    rounding = 4 * torch.finfo(d.dtype).eps * d.detach() * (d.detach() + 1)
    return root(squared.masked_fill(squared <= rounding, 0))


def _one_sided(d: Tensor, p: Tensor, n_alpha: float, n_beta: float) -> Tensor:
    """s' of equation 2, from distances d and what p of them lies along the neighbourhood of one of the two."""
    return alpha(across(d, p), n_alpha) * beta(p, n_beta)


def _two_sided(
    x: Tensor, u: Tensor, y: Tensor, v: Tensor, n_alpha: float, n_beta: float, d: Tensor | None = None
) -> Tensor:
    """s(x_i, y_j) of equation 5, the mean over the neighbourhoods of both: U_i of x_i and V_j of y_j -> [B, G]."""
    _check(x, u)
    _check(y, v)
    d = distance(x, y) if d is None else d
    return (_one_sided(d, along(x, y, v), n_alpha, n_beta) + _one_sided(d, along(y, x, u).mT, n_alpha, n_beta)) / 2


def _check(points: Tensor, basis: Tensor) -> None:
    if points.ndim != 2 or basis.ndim != 3 or basis.shape[:2] != points.shape:
        raise ValueError(f"[B, D] with basis [B, D, M] expected, got {list(points.shape)} and {list(basis.shape)}")


@full_precision
def point_similarity(
    points: Tensor,
    basis: Tensor,
    *,
    n_alpha: float = 4.0,
    n_beta: float = 0.5,
    columns: Tensor | None = None,
    column_basis: Tensor | None = None,
    distances: Tensor | None = None,
) -> Tensor:
    """s(x_i, x_j) of equations 2 to 5 for points [B, D] with neighbourhoods basis [B, D, M] -> [B, B], symmetric.

    With columns [G, D] and column_basis [G, D, M], the points of all ranks: the rows of the local points -> [B, G];
    `distances` [B, G] are theirs, where they are known.
    Raises ValueError for half precision or shapes that do not fit.
    """
    if (columns is None) != (column_basis is None):
        raise ValueError("columns and column_basis go together: every point needs its own neighbourhood")
    if columns is not None and column_basis is not None:
        return _two_sided(points, basis, columns, column_basis, n_alpha, n_beta, distances)
    _check(points, basis)
    s_prime = _one_sided(distance(points, points), along(points, points, basis), n_alpha, n_beta)
    return (s_prime + s_prime.mT) / 2


@full_precision
def proxy_similarity(
    points: Tensor,
    basis: Tensor,
    proxies: Tensor,
    proxy_basis: Tensor,
    *,
    n_alpha: float = 4.0,
    n_beta: float = 0.5,
) -> Tensor:
    """s(x_i, rho_j) of section 3.5 for proxies [P, D], Psi_j = proxy_basis[j] of [P, D, M] -> [B, P].

    A proxy is a point whose neighbourhood is span Psi_j. Differentiable in all arguments: detach rho and Psi to make
    s a constant target. Raises ValueError for half precision or shapes that do not fit.
    """
    return _two_sided(points, basis, proxies, proxy_basis, n_alpha, n_beta)

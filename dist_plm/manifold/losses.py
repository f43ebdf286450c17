"""Section 3.6: the three sums that train the network, the proxies and their neighbourhoods.

The similarity s is used as it comes: a constant target unless it carries a gradient itself.
"""

import torch
from torch import Tensor

from dist_plm.manifold.distance import distance, root
from dist_plm.manifold.precision import full_precision


def _expect(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")


@full_precision
def point_loss(
    z: Tensor,
    similarity: Tensor,
    *,
    delta: float | Tensor = 2.0,
    columns: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Equation 6: sum over i and j != i of (delta (1 - s_ij) - |z_i - z_j|)^2, for z [B, D] and s [B, B] -> scalar.

    With columns [G, D], the embeddings of all ranks, rows [B] (int64, the own rows of z in columns) and s [B, G]: the
    local share of the sum, all j against the local i. Raises ValueError for half precision or shapes that do not fit.
    """
    if (columns is None) != (rows is None):
        raise ValueError("columns and rows go together: rows tells which column is the point itself")
    if columns is None or rows is None:
        columns, rows = z, torch.arange(z.shape[0], device=z.device)
    _expect("similarity", similarity, z.shape[0], columns.shape[0])
    _expect("rows", rows, z.shape[0])
    is_self = rows[:, None] == torch.arange(columns.shape[0], device=z.device)
    residual = delta * (1 - similarity) - distance(z, columns)
    return residual.masked_fill(is_self, 0).square().sum()


@full_precision
def proxy_loss(z: Tensor, proxies: Tensor, similarity: Tensor, *, delta: float | Tensor = 2.0) -> Tensor:
    """Equation 7: sum over i, j of (delta (1 - s_ij) - |z_i - rho_j|)^2, z [B, D], proxies [P, D], s [B, P] -> scalar.

    Trains the network and rho. Raises ValueError for half precision or shapes that do not fit.
    """
    _expect("similarity", similarity, z.shape[0], proxies.shape[0])
    return (delta * (1 - similarity) - distance(z, proxies)).square().sum()


@full_precision
def neighbourhood_loss(basis: Tensor, proxy_basis: Tensor, similarity: Tensor) -> Tensor:
    """Equation 8: sum over i, j, k of (s_ij - cos theta_kji)^2, U = basis [B, D, M], Psi [P, D, M], s [B, P] -> scalar.

    cos theta_kji = |U_i' psi_kj| is the cosine of the angle between the unit vector psi_kj and span U_i. Trains Psi,
    and rho too where s carries its gradient. Raises ValueError for half precision or shapes that do not fit.
    """
    _expect("similarity", similarity, basis.shape[0], proxy_basis.shape[0])
    _expect("proxy_basis", proxy_basis, proxy_basis.shape[0], *basis.shape[1:])

    loss = similarity.new_zeros(())
    for psi in proxy_basis.unbind(dim=2):
        squared = torch.zeros_like(similarity)
        for u in basis.detach().unbind(dim=2):
            squared = squared + (u @ psi.mT).square()
        loss = loss + (similarity - root(squared)).square().sum()
    return loss

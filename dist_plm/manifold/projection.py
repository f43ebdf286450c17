"""Projection of an embedding onto its local neighbourhood."""

import torch
from torch import Tensor

from dist_plm.manifold.precision import full_precision


@torch.no_grad()
@full_precision
def mean_of_members(points: Tensor, neighbours: Tensor, members: Tensor) -> Tensor:
    """The mean of X_i for points [B, D] and neighbours [B, k, D], of which members [B, k + 1] joined -> [B, D].

    Column 0 of members is the point itself.
    """
    share = members.to(points.dtype) / members.sum(dim=1, keepdim=True)
    return share[:, :1] * points + (share[:, None, 1:] @ neighbours).squeeze(1)


@torch.no_grad()
@full_precision
def project(points: Tensor, basis: Tensor, centre: Tensor) -> Tensor:
    """c_i + U_i U_i'(x_i - c_i) for points [B, D], orthonormal basis [B, D, M] and centre [B, D] -> [B, D]."""
    offset = (points - centre)[:, :, None]
    return centre + (basis @ (basis.mT @ offset)).squeeze(2)

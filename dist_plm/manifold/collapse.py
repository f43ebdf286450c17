"""Indicators of collapse: if all embeddings coincide every target distance is 0, a fixed point of training."""

import torch
from torch import Tensor

from dist_plm.manifold.distance import distance
from dist_plm.manifold.precision import full_precision


@torch.no_grad()
@full_precision
def effective_rank(z: Tensor) -> Tensor:
    """Number of directions that z [B, D] takes up -> scalar in [1, min(B, D)]; 1 when all rows are parallel.

    exp of the entropy of the singular values as shares of their sum: Roy & Vetterli, The effective rank: a measure of
    effective dimensionality, EUSIPCO 2007.
    """
    sigma = torch.linalg.svdvals(z)
    share = sigma / sigma.sum()
    return torch.special.entr(share).sum().exp()


@torch.no_grad()
@full_precision
def mean_pair_distance(z: Tensor) -> Tensor:
    """Mean of |z_i - z_j| over all pairs i != j of z [B, D] -> scalar; 0 is collapse, 1.4 independence."""
    count = z.shape[0]
    return distance(z, z).sum() / (count * (count - 1))

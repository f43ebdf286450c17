"""Similarity without degrees, for the ablations of the paper's appendix: 1 in the neighbourhood, 0 outside."""

import torch
from torch import Tensor

from dist_plm.manifold.distance import distance


@torch.no_grad()
def member_similarity(members: Tensor, rows: Tensor) -> Tensor:
    """s_ij = ([x_j in X_i] + [x_i in X_j]) / 2, the mean of equation 5 over memberships -> float32 [b, G].

    Args:
        members: int64 [G, k + 1], the rows in X_i for each of all G points; -1 in the place of a neighbour that is not.
        rows: int64 [b], the points whose similarities are wanted.
    """
    count = len(members)
    # Non-members write into an extra column, which is dropped.
    holds = torch.zeros(count, count + 1, dtype=torch.bool, device=members.device)
    holds.scatter_(1, torch.where(members < 0, count, members), True)
    holds = holds[:, :count]
    return (holds[rows].float() + holds[:, rows].mT.float()) / 2


@torch.no_grad()
def nearest_points_similarity(points: Tensor, proxies: Tensor, k: int) -> Tensor:
    """1 for the k of the points [B, D] that are nearest to each of the proxies [P, D], 0 for the others -> [B, P].

    The appendix does not define the members of a proxy's neighbourhood, which has no X_i. Ties go to the lower row.
    """
    order = distance(proxies, points).sort(dim=1, stable=True).indices[:, :k]
    return points.new_zeros(len(proxies), len(points)).scatter_(1, order, 1.0).mT

"""The method as pure tensor functions: neighbourhoods (section 3.2), similarity (3.3, 3.5) and losses (3.6).

Legend: B points of a batch, b of them a rank's own, G points gathered from all ranks, D embedding dimension, M = m
dimensions of a linear neighbourhood, P proxies, k neighbours. x is an embedding by the momentum encoder f_phi, z one by
the network f_theta.
"""

from dist_plm.manifold.basis import orthonormal
from dist_plm.manifold.collapse import effective_rank, mean_pair_distance
from dist_plm.manifold.losses import neighbourhood_loss, point_loss, proxy_loss
from dist_plm.manifold.neighbourhoods import (
    Neighbourhoods,
    linear_neighbourhoods,
    nearest_candidates,
    neighbourhoods_among,
)
from dist_plm.manifold.projection import mean_of_members, project
from dist_plm.manifold.similarity import point_similarity, proxy_similarity

__all__ = [
    "Neighbourhoods",
    "effective_rank",
    "linear_neighbourhoods",
    "mean_of_members",
    "mean_pair_distance",
    "nearest_candidates",
    "neighbourhood_loss",
    "neighbourhoods_among",
    "orthonormal",
    "point_loss",
    "point_similarity",
    "project",
    "proxy_loss",
    "proxy_similarity",
]

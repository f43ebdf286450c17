"""Self-taught metric learning (STML; Kim et al., CVPR 2022) on W ranks: the paper's main unsupervised baseline."""

import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.manifold.distance import distance
from dist_plm.methods.base import Loss, Method, Points

SIGMA = 3.0  # kernel width, as in the paper


class SelfTaughtMetricLearning(Method):
    """The student's heads f and g follow the contextualised similarity of the teacher's g; f also follows g.

    With D_ij = |s_i - s_j| / mean_j |s_i - s_j| for the student's f and g, over all G points of the batch:

        contrastive    1 / (G (G - 1)) sum_{i != j} W_ij D_ij^2 + (1 - W_ij) relu(delta - D_ij)^2, mean over f and g
        distillation   1 / G sum_i KL(softmax_j(-D_ij of g), constant, to softmax_j(-D_ij of f))

    Local rows x gathered columns: all terms of a row and its mean are on one rank, so shares add up. Similarity is a
    constant of G^2 numbers, computed by every rank from the gathered t.
    """

    name = "stml"
    wide_dim = 1024

    def forward(self, points: Points) -> Loss:
        assert points.student_wide is not None and points.teacher_wide is not None and points.ids is not None
        world, shares, delta = self.world, points.shares, self.config.stml.delta
        rows = world.own_rows(points.student, shares)
        similarity = contextualised_similarity(
            world.gather_rows(points.teacher_wide, shares),
            world.gather_rows(points.ids, shares),
            k=self.config.batch.group_size * points.views,
            sigma=SIGMA,
        )[rows]
        d_f, d_g = (relative_distance(s, world.gather_rows(s, shares)) for s in (points.student, points.student_wide))
        contrastive = (
            relaxed_contrastive(d_f, similarity, rows, delta) + relaxed_contrastive(d_g, similarity, rows, delta)
        ) / 2
        distillation = self_distillation(d_f, d_g)
        share = contrastive + distillation
        terms = {"contrastive": contrastive.detach(), "distillation": distillation.detach()}
        return Loss(share, terms, {"similarity": similarity.mean()})


@torch.no_grad()
def contextualised_similarity(t: Tensor, ids: Tensor, *, k: int, sigma: float) -> Tensor:
    """W = (W_P + W_C) / 2 of their section 3.2.

    Args:
        t: Teacher embeddings [G, E].
        ids: int64 [G], the image of each point; views of one image are each other's nearest.
        k: Size of a neighbourhood, the point itself and its views included. Ties by row.
        sigma: Width of the similarity.

    Returns:
        [G, G], symmetric, in [0, 1].
    """
    pairwise = torch.exp(-distance(t, t).square() / sigma)  # W_P
    ranked = pairwise.masked_fill(ids[:, None] == ids[None, :], 1)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    half = max(k // 2, 1)
    near, nearer = (torch.zeros_like(pairwise).scatter_(1, order[:, :size], 1) for size in (k, half))
    reciprocal = near * near.T  # row i marks R(i)
    common = reciprocal @ reciprocal  # |R(i) & R(j)|, since R is symmetric
    # Of more than k points that coincide, the last are not even among their own k nearest: an empty neighbourhood.
    overlap = reciprocal * common / reciprocal.sum(dim=1, keepdim=True).clamp_min(1)  # W_C~
    expanded = nearer @ overlap / half  # W_C^
    return (pairwise + (expanded + expanded.T) / 2) / 2


def relative_distance(s: Tensor, columns: Tensor) -> Tensor:
    """D [b, G]: the distance of s_i to each column over that row's mean, the distance to itself (0) included."""
    d = distance(s, columns)
    return d / d.mean(dim=1, keepdim=True).clamp_min(1e-12)  # 0 where all points coincide


def relaxed_contrastive(d: Tensor, similarity: Tensor, rows: Tensor, delta: float) -> Tensor:
    """Rows [b, G] of their equation 6, as a share of the mean over all G (G - 1) pairs i != j."""
    count = d.shape[1]
    pairs = similarity * d.square() + (1 - similarity) * functional.relu(delta - d).square()
    return pairs.scatter(1, rows[:, None], 0.0).sum() / (count * (count - 1))


def self_distillation(d_f: Tensor, d_g: Tensor) -> Tensor:
    """Rows [b, G] of their equation 7, as a share of the mean over all G points; g is a constant."""
    target = functional.log_softmax(-d_g.detach(), dim=1)
    return (
        functional.kl_div(functional.log_softmax(-d_f, dim=1), target, log_target=True, reduction="sum") / d_f.shape[1]
    )

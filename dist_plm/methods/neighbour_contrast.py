"""Contrastive learning with neighbours as positives: PLM without its manifold, and so the control of what that adds."""

from torch import Tensor

from dist_plm.distributed.shares import Shares
from dist_plm.manifold import nearest_candidates
from dist_plm.methods.base import Loss, Method, Points
from dist_plm.methods.instance import contrast


class NeighbourContrast(Method):
    """Each point must find its k nearest of the global batch, by the momentum encoder, among all its points.

    Equation 2 (L_out) of Khosla et al., NeurIPS 2020, with the `manifold.k` candidates of X_i in place of the points of
    one label: all count alike, and everything else is a negative. Other views of an image are positives if they are
    near.
    """

    def prepare(self, x: Tensor, shares: Shares | None = None, neighbours: Tensor | None = None) -> Tensor:
        """The k nearest points of each, as rows of the global batch [b, k]."""
        k, rows = self.config.manifold.k, self.world.own_rows(x, shares)
        return nearest_candidates(x, self.world.gather_rows(x, shares), k, rows)[:, 1:]

    def forward(self, points: Points) -> Loss:
        """The softmax runs over local rows x gathered columns; a row's terms live on one rank, so shares add up."""
        z, shares, temperature = points.student, points.shares, self.config.warm_up.temperature
        near = self.prepare(points.teacher, shares) if points.prepared is None else points.prepared
        logits = contrast(z, self.world.gather_rows(z, shares), self.world.own_rows(z, shares), temperature)
        share = -logits.log_softmax(dim=1).gather(1, near).mean(dim=1).sum() / logits.shape[1]
        return Loss(share, {"contrast": share.detach()})

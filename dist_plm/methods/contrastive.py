"""Contrastive losses over the points of a batch: two views of an image as positives, or the nearest neighbours.

Instance discrimination (NT-Xent; Chen et al., ICML 2020) is the warm-up of random weights, and a control; neighbours as
positives are PLM without its manifold, and so the control of what that adds.
"""

from torch import Tensor
from torch.nn import functional

from dist_plm.config import Config
from dist_plm.distributed.shares import Shares
from dist_plm.errors import UserError
from dist_plm.manifold import nearest_candidates
from dist_plm.methods.base import Loss, Method, Points
from dist_plm.methods.manifold_checks import check_k, check_pieces


class InstanceDiscrimination(Method):
    """NT-Xent: the next view of the image is the positive among all points of the global batch (their equation 1)."""

    name = "instance"
    batches = "random"
    reads_teacher = False

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        if config.views.count < 2:
            raise UserError(
                "views.count is 1: instance discrimination (warm_up, train.method instance) compares two views"
            )

    def forward(self, points: Points) -> Loss:
        """Softmax over local rows x gathered columns; all terms of a row are on one rank, so shares add up."""
        z, temperature = points.student, self.config.warm_up.temperature
        self_columns = self.world.own_rows(z, points.shares)
        logits = contrast(z, self.world.gather_rows(z, points.shares), self_columns, temperature)
        view = self_columns % points.views
        partner = self_columns - view + (view + 1) % points.views
        share = functional.cross_entropy(logits, partner, reduction="sum") / logits.shape[1]
        hits = (logits.argmax(dim=1) == partner).to(z.dtype).mean()
        return Loss(share, {"instance": share.detach()}, {"instance_accuracy": hits.detach()})


class NeighbourContrast(Method):
    """The k nearest points of the global batch, by the momentum encoder, are the positives of each point.

    Equation 2 (L_out) of Khosla et al., NeurIPS 2020, with the `manifold.k` candidates of X_i in place of the points of
    one label: all count alike, and everything else is a negative. Other views of an image are positives if they are
    near.
    """

    name = "neighbour_contrast"

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        if config.manifold.scope != "global":
            raise UserError(
                f"manifold.scope {config.manifold.scope} is only supported by plm, neighbour_contrast searches "
                "neighbours in the whole batch: set --manifold.scope global"
            )
        check_pieces(config)
        check_k(config, world_size)

    def prepare(self, x: Tensor, shares: Shares | None = None, neighbours: Tensor | None = None) -> Tensor:
        """The k nearest points of each, as rows of the global batch [b, k]."""
        k, rows = self.config.manifold.k, self.world.own_rows(x, shares)
        return nearest_candidates(x, self.world.gather_rows(x, shares), k, rows)[:, 1:]

    def forward(self, points: Points) -> Loss:
        """Softmax over local rows x gathered columns; all terms of a row are on one rank, so shares add up."""
        z, shares, temperature = points.student, points.shares, self.config.warm_up.temperature
        near = self.prepare(points.teacher, shares) if points.prepared is None else points.prepared
        logits = contrast(z, self.world.gather_rows(z, shares), self.world.own_rows(z, shares), temperature)
        share = -logits.log_softmax(dim=1).gather(1, near).mean(dim=1).sum() / logits.shape[1]
        return Loss(share, {"contrast": share.detach()})


def contrast(z: Tensor, columns: Tensor, self_columns: Tensor, temperature: float) -> Tensor:
    """Logits z . columns / temperature [b, G]; -inf for the point itself, column `self_columns`."""
    return (z @ columns.T / temperature).scatter(1, self_columns[:, None], float("-inf"))

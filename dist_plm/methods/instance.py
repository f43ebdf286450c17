"""Two-view instance discrimination (NT-Xent; Chen et al., ICML 2020): a start for random weights, and a control."""

from torch import Tensor
from torch.nn import functional

from dist_plm.methods.base import Loss, Method, Points


class InstanceDiscrimination(Method):
    """Each view must find the next view of its image among all points of the global batch (their equation 1)."""

    batches = "random"
    reads_teacher = False

    def forward(self, points: Points) -> Loss:
        """The softmax runs over local rows x gathered columns; a row's terms live on one rank, so shares add up."""
        z, temperature = points.student, self.config.warm_up.temperature
        own = self.world.own_rows(z, points.shares)
        logits = contrast(z, self.world.gather_rows(z, points.shares), own, temperature)
        view = own % points.views
        partner = own - view + (view + 1) % points.views
        share = functional.cross_entropy(logits, partner, reduction="sum") / logits.shape[1]
        hits = (logits.argmax(dim=1) == partner).to(z.dtype).mean()
        return Loss(share, {"instance": share.detach()}, {"instance_accuracy": hits.detach()})


def contrast(z: Tensor, columns: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Logits z . columns / temperature [b, G] of which of the columns a point is; -inf for itself, column `own`."""
    return (z @ columns.T / temperature).scatter(1, own[:, None], float("-inf"))

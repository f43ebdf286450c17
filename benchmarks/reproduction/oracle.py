"""Equation 6 with one thing changed that no configuration offers: what it takes for other targets to teach better."""

import torch
from torch import Tensor

from dist_plm.config import Config
from dist_plm.distributed.world import World
from dist_plm.manifold import point_similarity
from dist_plm.manifold.distance import distance
from dist_plm.methods import Loss, Points
from dist_plm.methods.base import Targets
from dist_plm.methods.piecewise import similarity
from dist_plm.methods.plm import PiecewiseLinearManifold, Surroundings

CHANGES = ("", "truth", "truth_apart", "views", "others", "one", "late", "spread")


class ChangedTargets(PiecewiseLinearManifold):
    """PLM without proxies on one rank, in scope `global` or `gallery`.

    Args:
        change: `truth`: s = 1 for pairs of the same class. `truth_apart`: also s = 0 for pairs of different classes.
            `views`: only pairs of one image count; `others`: only pairs of different images. `one`: only one point of a
            pair is projected onto its piece, the mean over both. `late`: targets from unprojected points in the first
            half of the steps. `spread`: targets of pairs of different images are shifted and scaled to the mean and the
            standard deviation of their distances, so that targets with other spreads can be compared.
        labels: int64 [n], the class of each training image.
        steps: Of the run.
    """

    def __init__(self, config: Config, world: World, change: str, labels: Tensor, steps: int) -> None:
        super().__init__(config, world)
        assert self.proxies is None and world.size == 1 and change in CHANGES
        self.change, self.class_of, self.steps = change, labels, steps

    def forward(self, points: Points) -> Loss:
        """The mean of equation 6 over all ordered pairs."""
        assert points.ids is not None
        x, config = points.teacher, self.config.manifold
        around = self.prepare(x, None, points.neighbours)
        ids = points.ids
        image, label = ids[:, None] == ids, self.class_of[ids][:, None] == self.class_of[ids]
        s = self._similarity(x, around, points.step)
        s = torch.where(image, 1.0, s) if config.same_image else s
        if self.change.startswith("truth"):
            s = torch.where(label, 1.0, 0 * s if self.change == "truth_apart" else s)
        counts = {"views": image, "others": ~image}.get(self.change, torch.ones_like(image))
        delta = self._delta(s, x, x, None)
        if self.change == "spread":
            s = 1 - torch.where(image, 1 - s, matched(1 - s, distance(x, x) / delta, ~image))
        residual = (delta * (1 - s) - distance(points.student, points.student)).masked_fill(~counts, 0)
        mean = residual.fill_diagonal_(0).square().sum() / (len(x) * (len(x) - 1))
        targets = Targets(s, around.pieces.indices, around.pieces.members, 0, delta)
        return Loss(mean, {"point": mean.detach()}, {}, targets)

    def _similarity(self, x: Tensor, around: Surroundings, step: int) -> Tensor:
        points = x if self.change == "late" and step < self.steps / 2 else around.points_all
        if self.change != "one":
            return similarity(points, around.basis_all, None, torch.arange(len(x)), self.config.manifold)
        manifold, basis = self.config.manifold, around.basis_all
        s = point_similarity(
            x, basis, n_alpha=manifold.n_alpha, n_beta=manifold.n_beta, columns=points, column_basis=basis
        )
        return (s + s.mT) / 2


def matched(values: Tensor, like: Tensor, where: Tensor) -> Tensor:
    """Values shifted and scaled such that those of `where` have the mean and standard deviation of `like` there."""
    own, other = values[where], like[where]
    return (values - own.mean()) / own.std() * other.std() + other.mean()

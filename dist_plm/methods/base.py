"""The seam between the loop and what is trained on a batch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from dist_plm.config import Config
from dist_plm.runtime.checkpoint import Sharded
from dist_plm.runtime.world import World


@dataclass(frozen=True)
class Points:
    """This rank's points of a batch: b rows, image by image, an image's views side by side.

    Attributes:
        student: z = f_theta(x) [b, D], fp32 or better; carries gradient.
        teacher: f_phi(x) [b, D].
        views: Views of an image.
    """

    student: Tensor
    teacher: Tensor
    views: int


@dataclass(frozen=True)
class Loss:
    """What a batch costs.

    Attributes:
        share: This rank's share of the global loss (scalar): the loss is the *sum* of the shares over the ranks.
        terms: The same for each named term, detached.
        statistics: Means over the rank's points of what is worth watching, detached.
    """

    share: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A loss over the points of a batch, and the parameters that belong to it.

    Parameters of a method are owned: a rank holds those that no other holds, and their gradient is complete when
    `share.backward()` returns. So is the gradient of `points.student`, for the rank's own rows.

    Attributes:
        nearest_neighbour_batches: Whether batches are assembled around seeds (section 3.1.1) or at random.
    """

    nearest_neighbour_batches: ClassVar[bool] = True

    def __init__(self, config: Config, world: World) -> None:
        super().__init__()
        self.config, self.world = config, world

    @abstractmethod
    def forward(self, points: Points) -> Loss:
        """The loss of a batch. A collective."""

    def begin(self, gallery: Tensor) -> None:
        """Called once, before the first step, with the momentum embeddings [n, D] of the training images."""

    def sharded(self) -> dict[str, Sharded]:
        """The method's own parameters by name, with the number of rows over all ranks."""
        return {}

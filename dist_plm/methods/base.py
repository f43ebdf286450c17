"""Interface between the training loop and a training objective (method)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dist_plm.checkpoint.checkpoint import State
from dist_plm.config import BatchConfig, Config
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.parallel.strategy.memory import FLOAT

Batches = Literal["neighbours", "random", "classes", "clusters"]


@dataclass(frozen=True)
class Points:
    """This rank's points of a batch: b rows, ordered by image, then by view.

    Attributes:
        student: z = f_theta(x) [b, D], fp32 or better; carries gradient.
        teacher: f_phi(x) [b, D]; z without gradient for a method that does not read it.
        views: Views of an image.
        shares: Points of each rank; None: as many as this one.
        ids: int64 [b], the image of each point.
        labels: int64 [b], the class of each point, if `batches` is `classes` or `clusters`.
        student_wide: g_theta(x) [b, wide_dim] of the wide head, which may be 0 wide; carries gradient.
        teacher_wide: g_phi(x) [b, wide_dim].
        neighbours: f_phi of the k nearest training images of each image [b / views, k, D], as of the last refresh, for
            a method that `reads_gallery`.
        prepared: Result of `prepare` for `teacher`; None if it was not called.
        sound: Whether the rank's rows were finite (scalar bool); otherwise the step is skipped.
        step: Steps done in this phase: a counter for random numbers.
        epoch: Epochs done in this phase.
    """

    student: Tensor
    teacher: Tensor
    views: int
    shares: Shares | None = None
    ids: Tensor | None = None
    labels: Tensor | None = None
    student_wide: Tensor | None = None
    teacher_wide: Tensor | None = None
    neighbours: Tensor | None = None
    prepared: Any = None
    sound: Tensor = field(default_factory=lambda: torch.tensor(True))
    step: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class Targets:
    """A method's training targets for this rank's b points, for evaluation by labels.

    Attributes:
        similarity: [b, c] estimated similarity to c points of the batch.
        indices: int64 [b, k + 1], the point itself and its neighbours, nearest first, as columns of `similarity`; None
            where the neighbours are not in the batch.
        members: bool [b, k + 1], which of them are members of its group.
        first: Row of the global batch that corresponds to column 0.
        delta: Target distance of two points of similarity 0 (scalar).
    """

    similarity: Tensor
    indices: Tensor | None
    members: Tensor
    first: int
    delta: Tensor

    @property
    def distance(self) -> Tensor:
        """Target distances delta (1 - s) [b, c]."""
        return self.delta * (1 - self.similarity)


@dataclass(frozen=True)
class Loss:
    """Loss of a batch.

    Attributes:
        share: This rank's share of the global loss (scalar): the loss is the *sum* of the shares over the ranks.
        terms: The same for each named term, detached.
        statistics: Means over the rank's points for the log, detached.
        targets: The training targets; None for a method without pairwise targets.
    """

    share: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    targets: Targets | None = None


class Method(nn.Module, ABC):
    """A loss over the points of a batch, and the parameters that belong to it.

    Parameters of a method are sharded: each is owned by one rank, where its gradient is complete when
    `share.backward()` returns. So is the gradient of `points.student` for the rank's rows.

    Args:
        classes: Number of classes of the training split; only used by supervised methods.

    Attributes:
        batches: A group of a batch is a seed and its nearest `neighbours` (section 3.1.1), `random` images, or images
            of one class: by the split's labels (`classes`) or by the pseudo-labels of `cluster` (`clusters`).
        reads_teacher: Whether `forward` needs f_phi(x), a forward pass of the momentum encoder.
        name: Value of `train.method`.
        wide_dim: Recommended `model.wide_dim` of a method that trains the second head; 0: it has none.
    """

    name: ClassVar[str]
    wide_dim: ClassVar[int] = 0
    batches: Batches = "neighbours"
    reads_teacher: bool = True

    def __init__(self, config: Config, world: World, classes: int = 1) -> None:
        super().__init__()
        self.config, self.world, self.classes = config, world, classes

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        """Check configuration and data. Called before anything starts, also for a warm-up.

        Raises:
            UserError: Names the keys at fault and the fix.
        """

    @classmethod
    def memory(cls, config: Config, classes: int, world_size: int) -> dict[str, float]:
        """Bytes on a rank by purpose, without the pairs of points that all methods have."""
        return {}

    @classmethod
    def stored(cls, config: Config, classes: int) -> int:
        """Bytes of the method's parameters and their moments in a checkpoint, of all ranks."""
        return 0

    @classmethod
    def is_searched(cls, batch: BatchConfig) -> bool:
        """Whether batches need the nearest images of their seeds; groups of one image don't."""
        return cls.batches == "neighbours" and batch.group_size > 1

    @classmethod
    def reads_gallery(cls, config: Config) -> bool:
        """Whether `forward` and `prepare` need the nearest training images of each image of a batch."""
        return False

    def prepare(self, x: Tensor, shares: Shares | None = None, neighbours: Tensor | None = None) -> Any:
        """Computations of `forward` on f_phi(x) [b, D] only, which may overlap with the student's forward pass. A
        collective.

        Args:
            shares: As in `Points`.
            neighbours: As in `Points`.
        """
        return None

    @abstractmethod
    def forward(self, points: Points) -> Loss:
        """The loss of a batch. A collective."""

    def begin(self, gallery: Callable[[], Tensor]) -> None:
        """Called once, before the first step; `gallery` reads the momentum embeddings [n, D] of all training images."""

    def cluster(self, gallery: np.ndarray) -> np.ndarray:
        """Pseudo-labels of the training images from their momentum embeddings [n, D] -> int64 [n], -1: none.

        Called on rank 0 at every refresh if `batches` is `clusters`; a function of its argument only.
        """
        raise NotImplementedError(f"{type(self).__name__} has no clusters")

    def relabel(self, gallery: np.ndarray, labels: np.ndarray) -> None:
        """Called after `cluster` on all ranks, with its argument and result; the optimizer's moments are reset."""

    def trained(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, which the run's optimizer updates."""
        return self.parameters()

    def state(self) -> State:
        """State for checkpoints, by name: the sharded parameters, and replicated state that the method updates
        itself."""
        return {}


def proxy_bytes(config: Config, count: int, floats: int) -> int:
    """Bytes of `count` proxies of `floats` parameters and their moments in a checkpoint."""
    return count * floats * (1 + (1 if config.optimiser.name == "sgd" else 2)) * FLOAT


def proxy_memory(config: Config, count: int, floats: int, world_size: int, pair_floats: float) -> dict[str, float]:
    """Bytes of a rank for `count` proxies over all ranks.

    Args:
        floats: Parameters per proxy.
        pair_floats: Temporary numbers for all pairs of points and proxies.
    """
    moments = 1 if config.optimiser.name == "sgd" else 2
    return {
        "proxies, gradient and moments": -(-count // world_size) * floats * (2 + moments) * FLOAT,
        "pairs of points and proxies": pair_floats * FLOAT,
    }

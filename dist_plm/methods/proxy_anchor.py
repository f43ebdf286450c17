"""Proxy-Anchor (Kim et al., CVPR 2020) on W ranks: proxies are sharded, points are gathered."""

import torch
from torch import Tensor

from dist_plm.checkpoint.checkpoint import Sharded, State
from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.methods.base import Batches, Loss, Method, Points, proxy_bytes, proxy_memory
from dist_plm.model.proxies import ClassProxies

MARGIN = 0.1  # cosine, as in the paper


def proxy_anchor_loss(
    z: Tensor, labels: Tensor, proxies: Tensor, first: int, count: int,
    *, margin: float, alpha_positive: float, alpha_negative: float,
) -> Tensor:  # fmt: skip
    """The terms of their equation 4 that belong to proxies `first`, `first` + 1, ... of `count` (scalar).

        1/|P+| sum_{p in P+} log(1 + sum_{x of p}     exp(-a+ (x'p - m)))
      + 1/|P|  sum_p         log(1 + sum_{x not of p} exp( a- (x'p + m)))

    P+ are the proxies with a point of their class in the batch. The terms of disjoint slices add up to the loss.

    Args:
        z: All points [G, D], of unit length.
        labels: int64 [G], classes in [0, count).
        proxies: The slice [C_r, D], of unit length.
    """
    cosine = proxies @ z.T
    numbers = first + torch.arange(len(proxies), device=z.device)
    positive = labels[None, :] == numbers[:, None]
    present = labels.new_zeros(count).index_fill(0, labels, 1).sum()  # |P+|; unique() would synchronise with a GPU
    attraction = _log_one_plus_sum(-alpha_positive * (cosine - margin), positive) / present
    return attraction + _log_one_plus_sum(alpha_negative * (cosine + margin), ~positive) / count


def _log_one_plus_sum(exponents: Tensor, kept: Tensor) -> Tensor:
    """sum_p log(1 + sum_{x kept} exp(e_px)); 0 for a row without kept entries."""
    one = exponents.new_zeros(len(exponents), 1)  # exp(0)
    return torch.cat([one, exponents.masked_fill(~kept, float("-inf"))], dim=1).logsumexp(dim=1).sum()


class ProxyAnchor(Method):
    """The loss over all G points of the batch and C classes, each term on the rank that owns its proxy.

    Every rank gathers all points; proxies are not communicated, and their gradient and Adam's moments are complete on
    the owner. pytorch-metric-learning replicates all C proxies; tests compare with its loss.
    """

    name = "proxy_anchor"
    batches: Batches = "classes"
    reads_teacher = False

    def __init__(self, config: Config, world: World, classes: int = 1) -> None:
        super().__init__(config, world, classes)
        self.proxies = ClassProxies(classes, config.model.dim, seed=config.seed, rank=world.rank, world_size=world.size)

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        with open_split(config.data, config.data.train_split) as store:
            classes = len(set(store.labels.tolist()) - {-1})
        if classes < 2:
            raise UserError(
                f"train.method {config.train.method} learns from labels, and split {config.data.train_split!r} of "
                f"{config.data.shards} has {classes} classes: plm, stml and pseudo_labels need none"
            )

    @classmethod
    def memory(cls, config: Config, classes: int, world_size: int) -> dict[str, float]:
        pairs = config.batch.images * config.views.count * -(-classes // world_size)
        # cosines, and exponents of both signs with gradients
        return proxy_memory(config, classes, config.model.dim, world_size, pair_floats=6 * pairs)

    @classmethod
    def stored(cls, config: Config, classes: int) -> int:
        return proxy_bytes(config, classes, config.model.dim)

    def forward(self, points: Points) -> Loss:
        z_all, labels, proxies = self._everyone(points)
        share = self._base(z_all, labels, proxies)
        return Loss(share, {"proxy_anchor": share.detach()})

    def _everyone(self, points: Points) -> tuple[Tensor, Tensor, Tensor]:
        """All points z [G, D] and their labels [G], and this rank's proxies [C_r, D]."""
        assert points.labels is not None
        z_all, labels = (self.world.gather_rows(tensor, points.shares) for tensor in (points.student, points.labels))
        return z_all, labels, self.proxies()

    def _base(self, z_all: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        settings = self.config.proxy_anchor
        return proxy_anchor_loss(
            z_all,
            labels,
            proxies,
            self.proxies.first,
            self.proxies.count,
            margin=MARGIN,
            alpha_positive=settings.alpha_positive,
            alpha_negative=settings.alpha_negative,
        )

    def state(self) -> State:
        return {"proxies.raw": Sharded(self.proxies.raw, self.proxies.count)}

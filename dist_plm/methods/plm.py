"""Piecewise-linear manifolds on W ranks: section 3 of the paper, equations 6 to 9, for one global batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dist_plm.checkpoint.checkpoint import Sharded, State
from dist_plm.config import Config
from dist_plm.data.opening import manifest_of
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.index.placement import check_whole
from dist_plm.manifold import neighbourhood_loss, point_loss, proxy_loss
from dist_plm.manifold.distance import distance
from dist_plm.methods.base import Loss, Method, Points, Targets, proxy_bytes, proxy_memory
from dist_plm.methods.manifold_checks import check_images, check_k, check_pieces
from dist_plm.methods.piecewise import (
    Pieces,
    batch_pieces,
    gallery_pieces,
    member_ids,
    neighbourhoods,
    similarity,
    similarity_to_proxies,
)
from dist_plm.model.proxies import Proxies

PAIRS = 2**21  # of points and proxies per block


class Surroundings(NamedTuple):
    """Neighbourhoods of a batch, from the momentum encoder only.

    Args:
        x_all: f_phi of all points [G, D].
        pieces: P_i of the rank's own points.
        basis_all: Bases of all points [G, D, M].
        points_all: What similarity is computed from [G, D]: f_phi, or its projections onto the points' own pieces.
    """

    x_all: Tensor
    pieces: Pieces
    basis_all: Tensor
    points_all: Tensor


class PiecewiseLinearManifold(Method):
    """The loss of equation 9 over all G points of the batch and P proxies.

    Distribution of the pairs, with r the rank, b_r its points and P_r its proxies:

        equation 6   rows of r x all columns      sum_{i in r} sum_j          G b_r pairs
        equation 7   all points x proxies of r    sum_i sum_{j in r}          G P_r pairs
        equation 8   all bases x proxies of r     sum_i sum_{j in r} sum_k    G P_r M pairs

    Every pair is counted on exactly one rank, so the loss is the sum of the shares and, by linearity, so is every
    gradient. rho and Psi are not communicated: equations 7 and 8 are computed on their owner, since z, f_phi and the
    bases [G, D, M] are gathered for equation 6 anyway. dL/drho and dL/dPsi are complete on the owner; dL/dz of a rank's
    rows includes the pairs of other ranks by the adjoint of the gather, a reduce-scatter.
    """

    name = "plm"

    def __init__(self, config: Config, world: World, classes: int = 1) -> None:
        super().__init__(config, world, classes)
        manifold, count = config.manifold, config.proxies.count
        self.proxies: Proxies | None = None
        if count:
            self.proxies = Proxies(
                count, config.model.dim, manifold.dim, seed=config.seed, rank=world.rank, world_size=world.size
            )

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        manifold, groups = config.manifold, config.batch.groups
        if manifold.scope == "rank" and groups % world_size:
            valid = ", ".join(str(count) for count in range(1, groups + 1) if groups % count == 0)
            raise UserError(
                f"manifold.scope rank needs whole groups on each rank, and batch.groups {groups} is not a multiple of "
                f"{world_size} ranks: start {valid} ranks, or set --manifold.scope global"
            )
        if manifold.scope == "rank" and config.runtime.strategy == "reproducible" and world_size > 1:
            raise UserError(
                "runtime.strategy reproducible gives the same result on any number of ranks, and manifold.scope rank "
                "makes it depend on their number: set --manifold.scope global, or --runtime.strategy ddp"
            )
        if manifold.k <= manifold.dim:
            raise UserError(
                f"manifold.k {manifold.k} leaves no candidate beyond the {manifold.dim} points that span a "
                "neighbourhood: set --manifold.k above manifold.dim"
            )
        if manifold.dim > config.model.dim:
            raise UserError(f"manifold.dim {manifold.dim} is larger than model.dim {config.model.dim}")
        check_pieces(config)
        if manifold.scope != "gallery":
            check_k(config, world_size)
        if config.proxies.count and config.proxies.start == "data":
            images = manifest_of(config.data).splits[config.data.train_split].samples
            check_whole(config, images, "proxies.start", config.proxies.start)
            check_images(config)

    @classmethod
    def memory(cls, config: Config, classes: int, world_size: int) -> dict[str, float]:
        count, floats = config.proxies.count, config.model.dim * (1 + config.manifold.dim)
        pairs = config.batch.images * config.views.count * -(-count // world_size)
        # three times as many as pairs of points with M basis vectors, for one block of proxies
        return proxy_memory(config, count, floats, world_size, pair_floats=25 * min(pairs, PAIRS))

    @classmethod
    def stored(cls, config: Config, classes: int) -> int:
        return proxy_bytes(config, config.proxies.count, config.model.dim * (1 + config.manifold.dim))

    @classmethod
    def reads_gallery(cls, config: Config) -> bool:
        return config.manifold.scope == "gallery"

    def prepare(self, x: Tensor, shares: Shares | None = None, neighbours: Tensor | None = None) -> Surroundings:
        world, rows, config = self.world, self.world.own_rows(x, shares), self.config.manifold
        x_all = world.gather_rows(x, shares)
        if config.scope == "gallery":
            assert neighbours is not None
            pieces = gallery_pieces(x, neighbours, self.config.views.count, config)
        elif config.scope == "rank":
            pieces = batch_pieces(x, x, rows - rows[0], config)
        else:
            pieces = batch_pieces(x, x_all, rows, config)
        points_all = world.gather_rows(pieces.projected, shares) if config.project else x_all
        return Surroundings(x_all, pieces, world.gather_rows(pieces.basis, shares), points_all)

    def forward(self, points: Points) -> Loss:
        weights, z_all = self.config.loss, self.world.gather_rows(points.student, points.shares)
        around = points.prepared
        if around is None:
            around = self.prepare(points.teacher, points.shares, points.neighbours)
        point, targets = self._point_share(points, around, z_all)
        terms, share = {"point": point.detach()}, weights.point * point
        if self.proxies is not None:
            proxy, neighbourhood = self._proxy_shares(self.proxies, z_all, around, targets.delta)
            share = share + weights.proxy * proxy + weights.neighbourhood * neighbourhood
            terms |= {"proxy": proxy.detach(), "neighbourhood": neighbourhood.detach()}
        size = around.pieces.members.sum(dim=1).to(z_all.dtype).mean()
        return Loss(share, terms, {"neighbourhood_size": size}, targets)

    def _point_share(self, points: Points, around: Surroundings, z_all: Tensor) -> tuple[Tensor, Targets]:
        """Mean of equation 6. In scope `rank` the columns are the rank's own and the mean is over W batches."""
        config, alone, members = self.config.manifold, self.config.manifold.scope == "rank", None
        x_all, pieces, basis_all, points_all = around
        rows = self.world.own_rows(points.student, points.shares)
        first = self.world.rank * len(rows) if alone else 0  # in scope `rank`, shares are equal
        if config.similarity == "binary":
            members = member_ids(pieces) if alone else self.world.gather_rows(member_ids(pieces), points.shares)
        if alone:
            z_all, x_all, basis_all, rows = points.student, points.teacher, pieces.basis, rows - first
            points_all = pieces.projected
        d = None if config.project else pieces.distances  # of the projections they are others
        s = similarity(points_all, basis_all, members, rows, config, d)
        if config.same_image:
            image = torch.arange(len(x_all), device=x_all.device) // points.views
            s = torch.where(image[rows][:, None] == image[None, :], 1.0, s)
        delta = self._delta(s, points.teacher, x_all, pieces.distances)
        total = point_loss(points.student, s, delta=delta, columns=z_all, rows=rows)
        pairs = len(z_all) * (len(z_all) - 1) * (self.world.size if alone else 1)
        return total / pairs, Targets(s, pieces.indices, pieces.members, first, delta)

    def _delta(self, s: Tensor, x: Tensor, columns: Tensor, d: Tensor | None) -> Tensor:
        """delta; if relative, times the mean of |x_i - x_j| over the mean of 1 - s_ij, over the pairs of all ranks.

        A point with itself contributes 0 to both. If all points coincide delta is 0, as every target.
        """
        delta = s.new_full((), self.config.loss.delta)
        if not self.config.loss.relative:
            return delta
        d = distance(x, columns) if d is None else d
        far, unlike = self.world.sum(torch.stack([d.sum(), (1 - s).sum()])).unbind()
        return delta * far / unlike.clamp_min(torch.finfo(s.dtype).tiny)

    def _proxy_shares(
        self, proxies: Proxies, z_all: Tensor, around: Surroundings, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means of equations 7 and 8 over all points and the rank's own proxies.

        Computed in blocks of proxies, and recomputed in the backward pass, so that temporary memory does not grow with
        their number.
        """

        def sums(raw_rho: Tensor, raw_psi: Tensor, z_all: Tensor) -> tuple[Tensor, Tensor]:
            rho, psi = proxies.constrained(raw_rho, raw_psi)
            with torch.set_grad_enabled(self.config.proxies.similarity_gradient):
                s = similarity_to_proxies(around.points_all, around.basis_all, rho, psi, self.config.manifold)
            return proxy_loss(z_all, rho, s, delta=delta), neighbourhood_loss(around.basis_all, psi, s)

        proxy, neighbourhood = z_all.new_zeros(()), z_all.new_zeros(())
        for raw_rho, raw_psi in proxies.pieces(max(1, PAIRS // len(z_all))):
            first, second = checkpoint(sums, raw_rho, raw_psi, z_all, use_reentrant=False, preserve_rng_state=False)
            proxy, neighbourhood = proxy + first, neighbourhood + second
        pairs = len(z_all) * proxies.count
        return proxy / pairs, neighbourhood / (pairs * self.config.manifold.dim)

    @torch.no_grad()
    def begin(self, gallery: Callable[[], Tensor]) -> None:
        """Initialise this rank's proxies from data, if configured: every n/P-th image, with its local basis."""
        if self.proxies is None or self.config.proxies.start != "data":
            return
        points = gallery()
        numbers = self.proxies.first + torch.arange(len(self.proxies.raw_rho), device=points.device)
        for block in numbers.split(1024):  # 1,024 x n distances per block
            rows = block * len(points) // self.proxies.count
            basis = neighbourhoods(points[rows], points, rows, self.config.manifold).basis
            self.proxies.place(block - self.proxies.first, points[rows], basis)

    def state(self) -> State:
        if self.proxies is None:
            return {}
        return {
            f"proxies.{name}": Sharded(parameter, self.proxies.count)
            for name, parameter in self.proxies.named_parameters()
        }

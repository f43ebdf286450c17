"""Proxies: rho with their linear neighbourhoods Psi (section 3.4), or one per class; sharded over the ranks."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.distributed.world import World
from dist_plm.manifold import orthonormal

_BLOCK = 1024  # proxies per generator, so that any slice can be drawn without drawing all P


class Proxies(nn.Module):
    """The rows of rho [P, D] and Psi [P, D, M] that `rank` of `world_size` owns, as raw parameters.

    A million proxies at D = 128, M = 3 are 2 GB with gradients and Adam's moments three times that, so no rank holds
    them all. The slices are those of torch.chunk: ceil(P / W) rows each, the last ones shorter or empty.

    In the forward rho is l2-normalised and Psi orthonormalised: at the paper's learning rate of 5e-2 Adam moves a
    vector by up to .05 sqrt(D) = .57 a step, so the parameters themselves can't be kept on the sphere.
    """

    def __init__(
        self, count: int, dim: int, manifold_dim: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__()
        self.count = count
        self.first, last = own_rows(count, rank, world_size)
        drawn = normal_rows(self.first, last, (dim, 1 + manifold_dim), seed)
        self.raw_rho, self.raw_psi = nn.Parameter(drawn[..., 0].clone()), nn.Parameter(drawn[..., 1:].clone())

    def pieces(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's raw parameters in blocks of `size` proxies: [p, D] and [p, D, M] for `constrained`.

        A rank without proxies has one empty block, so that its graph is the same as that of the others.
        """
        # Split, not sliced: the backward of each slice would make a zero tensor of the size of all own proxies.
        return zip(self.raw_rho.split(size), self.raw_psi.split(size), strict=True)

    @staticmethod
    def constrained(raw_rho: Tensor, raw_psi: Tensor) -> tuple[Tensor, Tensor]:
        """rho [p, D] of unit length and Psi [p, D, M] with orthonormal columns."""
        return functional.normalize(raw_rho, dim=-1), orthonormal(raw_psi)

    @torch.no_grad()
    def place(self, rows: Tensor, rho: Tensor, psi: Tensor) -> None:
        """Move local rows `rows` [p] to locations rho [p, D] with bases psi [p, D, M]."""
        self.raw_rho[rows] = rho
        # A rank-deficient basis has zero columns, which QR can't orthonormalise: a little noise completes it.
        self.raw_psi[rows] = psi + 1e-3 * self.raw_psi[rows]


class ClassProxies(nn.Module):
    """A proxy for each of `count` classes: the rows of p [C, D] that `rank` of `world_size` owns.

    Parameters are unnormalised vectors; only their direction is used.
    """

    def __init__(self, count: int, dim: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__()
        self.count = count
        self.first, last = own_rows(count, rank, world_size)
        # Variance 2 / C, as in Proxy-Anchor's code: it sets the angle per step of Adam.
        self.raw = nn.Parameter(normal_rows(self.first, last, (dim,), seed) * math.sqrt(2 / max(count, 1)))

    def forward(self) -> Tensor:
        """The own proxies [C_r, D], of unit length."""
        return functional.normalize(self.raw, dim=-1)

    def of(self, labels: Tensor, proxies: Tensor, world: World) -> Tensor:
        """p_y [G, D] for labels y [G] that all ranks know, with gradient to the owners. A collective.

        All-reducing the rows of a batch moves 4 G D bytes, independent of the number of classes.
        """
        row = labels - self.first
        mine = (row >= 0) & (row < len(proxies))
        padded = torch.cat([proxies, proxies.new_zeros(1, proxies.shape[1])])
        return world.sum(padded[row.where(mine, len(proxies))])

    @torch.no_grad()
    def place(self, directions: Tensor) -> None:
        """Set the directions of this rank's proxies [C_r, D], keeping their norm; a zero row is ignored."""
        length = self.raw.norm(dim=-1, keepdim=True)
        turned = functional.normalize(directions, dim=-1) * length
        self.raw.copy_(torch.where(directions.any(dim=-1, keepdim=True), turned, self.raw))


def own_rows(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and past-the-last of `count` rows that a rank owns: the slices of torch.chunk."""
    rows = -(-count // world_size)
    return min(rank * rows, count), min((rank + 1) * rows, count)


def normal_rows(first: int, last: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Rows [last - first, *shape] of an infinite N(0, 1) matrix that is a function of the seed."""
    rows = torch.empty(last - first, *shape)
    for start in range(first - first % _BLOCK, last, _BLOCK):
        # a golden-ratio stride keeps the blocks' seeds apart for any seed
        generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + start // _BLOCK) % 2**63)
        block = torch.randn(_BLOCK, *shape, generator=generator)
        rows[max(start - first, 0) : start + _BLOCK - first] = block[max(first - start, 0) : last - start]
    return rows

"""Proxies rho and their linear neighbourhoods Psi (section 3.4); each rank owns a slice of them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.manifold import orthonormal

_BLOCK = 1024  # proxies drawn from one generator: any slice is drawn alike, without drawing all P of them


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
        rows = -(-count // world_size)
        self.first = min(rank * rows, count)
        last = min(self.first + rows, count)
        self.raw_rho = nn.Parameter(torch.empty(last - self.first, dim))
        self.raw_psi = nn.Parameter(torch.empty(last - self.first, dim, manifold_dim))
        self._draw(seed)

    def pieces(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The own raw parameters, `size` proxies at a time: [p, D] and [p, D, M] for `constrained`.

        A rank without proxies has one empty piece, so that its graph is that of the others.
        """
        # Split, not sliced: the backward of each slice would make a zero tensor of the size of all own proxies.
        return zip(self.raw_rho.split(size), self.raw_psi.split(size), strict=True)

    @staticmethod
    def constrained(raw_rho: Tensor, raw_psi: Tensor) -> tuple[Tensor, Tensor]:
        """rho [p, D] of unit length and Psi [p, D, M] with orthonormal columns."""
        return functional.normalize(raw_rho, dim=-1), orthonormal(raw_psi)

    @torch.no_grad()
    def place(self, own: Tensor, rho: Tensor, psi: Tensor) -> None:
        """Move own rows `own` [p] to locations rho [p, D] with bases psi [p, D, M]."""
        self.raw_rho[own] = rho
        # A rank-deficient basis has zero columns, which QR can't orthonormalise: a little noise completes it.
        self.raw_psi[own] = psi + 1e-3 * self.raw_psi[own]

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        """Fill the own rows with those of an endless N(0, 1) matrix that depends on the seed alone."""
        first, last = self.first, self.first + len(self.raw_rho)
        dim, manifold_dim = self.raw_psi.shape[1:]
        for start in range(first - first % _BLOCK, last, _BLOCK):
            # a golden-ratio stride keeps the blocks' seeds apart for any seed
            generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + start // _BLOCK) % 2**63)
            block = torch.randn(_BLOCK, dim, 1 + manifold_dim, generator=generator)
            block = block[max(first - start, 0) : last - start]
            own = slice(max(start - first, 0), start + _BLOCK - first)
            self.raw_rho[own], self.raw_psi[own] = block[..., 0], block[..., 1:]

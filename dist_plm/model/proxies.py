"""Proxies rho and their linear neighbourhoods Psi (section 3.4); each rank owns a slice of them."""

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
        raw = _normal(self.first, last, dim * (1 + manifold_dim), seed).view(last - self.first, dim, 1 + manifold_dim)
        self.raw_rho = nn.Parameter(raw[..., 0].clone())
        self.raw_psi = nn.Parameter(raw[..., 1:].clone())

    @property
    def rho(self) -> Tensor:
        """[P_r, D], unit length."""
        return functional.normalize(self.raw_rho, dim=-1)

    @property
    def psi(self) -> Tensor:
        """[P_r, D, M], orthonormal columns."""
        return orthonormal(self.raw_psi)

    @torch.no_grad()
    def place(self, own: Tensor, rho: Tensor, psi: Tensor) -> None:
        """Move own rows `own` [p] to locations rho [p, D] with bases psi [p, D, M]."""
        self.raw_rho[own] = rho
        # A rank-deficient basis has zero columns, which QR can't orthonormalise: a little noise completes it.
        self.raw_psi[own] = psi + 1e-3 * self.raw_psi[own]


def _normal(first: int, last: int, width: int, seed: int) -> Tensor:
    """Rows first..last of an endless N(0, 1) matrix that depends on the seed alone."""
    blocks = []
    for block in range(first // _BLOCK, -(-last // _BLOCK) if last > first else first // _BLOCK):
        # numpy-style counter seeding: a golden-ratio stride keeps the blocks' seeds apart for any seed
        generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + block) % 2**63)
        rows = torch.randn(_BLOCK, width, generator=generator)
        start = block * _BLOCK
        blocks.append(rows[max(first - start, 0) : max(min(last - start, _BLOCK), 0)])
    return torch.cat(blocks) if blocks else torch.empty(0, width)

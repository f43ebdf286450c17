"""Orthonormal bases: the vectors psi_1 ... psi_m of section 3.4 from unconstrained parameters."""

import torch
from torch import Tensor

from dist_plm.manifold.precision import full_precision


@full_precision
def orthonormal(raw: Tensor) -> Tensor:
    """Q of the thin QR of raw [P, D, M] whose R has a positive diagonal -> [P, D, M]; differentiable.

    A zero column stays zero.
    Gram-Schmidt gives this Q directly and works on all P at once, where torch.linalg.qr on CUDA loops over matrices.
    Twice, because one pass leaves an error of eps * cond(raw) between columns and the second pass reduces it to eps.
    """
    columns: list[Tensor] = []
    for column in raw.unbind(dim=2):
        if columns:
            q = torch.stack(columns, dim=2)
            for _ in range(2):
                column = column - (q @ (q.mT @ column[:, :, None])).squeeze(2)
        length = torch.linalg.vector_norm(column, dim=1, keepdim=True)
        columns.append(column / length.masked_fill(length == 0, 1))
    return torch.stack(columns, dim=2)

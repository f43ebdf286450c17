"""Euclidean distance of all pairs, exact for near points and differentiable everywhere."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class _Distance(torch.autograd.Function):
    """|x_i - y_j| from the differences themselves; its gradient from two matrix products.

    Forward: for unit vectors in float32, |x|^2 + |y|^2 - 2 x'y is off by about 1e-7, hence a distance near 0 by 3e-4.
    Summing squared differences is off by 1e-7 of the distance, and a duplicate is at exactly 0.
    Backward: the one of torch.cdist holds a [B, G, D] tensor on CUDA. With w_ij = g_ij / d_ij,
    sum_j g_ij (x_i - y_j) / d_ij = (sum_j w_ij) x_i - sum_j w_ij y_j needs none.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(x, y, d)
        return d

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, d = ctx.saved_tensors  # type: ignore[attr-defined]
        w = (gradient / d).masked_fill_(d == 0, 0)
        wants_x, wants_y = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            torch.addmm(w.sum(1)[:, None] * x, w, y, alpha=-1) if wants_x else None,
            torch.addmm(w.sum(0)[:, None] * y, w.mT, x, alpha=-1) if wants_y else None,
        )


def distance(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| for x [B, D] and y [G, D] -> [B, G]; where it is 0, so is its gradient."""
    return _Distance.apply(x, y)


def root(squared: Tensor) -> Tensor:
    """Square root of max(0, squared), with gradient 0 where squared <= 0 (where the root's own would be infinite)."""
    vanishing = squared <= 0
    return squared.masked_fill(vanishing, 1).sqrt().masked_fill(vanishing, 0)

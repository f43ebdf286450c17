"""Bitwise reproducibility at any world size in float32: fixed micro-batches, and sums in float64."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.replicated import Replicated


class Reproducible(Replicated):
    """The student replicated on each rank, with micro-batches independent of the world size and gradients summed in
    float64.

    In float32 two orders of a sum differ by 6e-8 of it, and the order within a kernel depends on the batch size. Adam's
    first steps are lr g / |g|, which turns rounding noise into steps of full length: after ten of them runs on 1 and 2
    ranks differ by 1e-3 of the loss. So

    - the batch is split into `runtime.lanes` micro-batches (lanes), each rank computes whole ones, the same number or
        one more, and both encoders embed one at a time: a kernel's input does not depend on the world size;
    - the method computes in float64 and its gradient dL/dz is rounded to float32 once: two orders differ by 1e-16,
      which changes what it rounds to in about one entry of 1e8;
    - gradients of the lanes and of the ranks are summed in float64 and rounded once; so are those of the method's
        parameters, which are complete on their owner;
    - the norm for `optimiser.clip_norm` is summed in an order that does not depend on which rank owns a row.

    The cost is 8 bytes per weight, and smaller kernels.

    Args:
        student: The network; its batch norm, if any, must be frozen.
        pieces: Views of each of the rank's lanes.
    """

    def __init__(
        self, student: nn.Module, updates: Updates, world: World, *, precision: str, pieces: Sequence[int]
    ) -> None:
        super().__init__(student, updates, world, precision=precision)
        self._sizes = list(pieces)
        self._micro_batches: list[Tensor] = []
        self._owned: list[Shares] = []  # rows of the method's parameters on each rank

    def embed(self, views: Tensor) -> Tensor:
        with self.autocast():
            self._micro_batches = [self.student(piece) for piece in views.split(self._sizes)]
        return torch.cat(self._micro_batches)

    def embed_constant(self, network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        with self.autocast():
            return torch.cat([network(piece) for piece in views.split(self._sizes)])

    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self._parameters]
        total = torch.zeros(sum(sizes), dtype=torch.float64, device=z.device)
        slices = [part.view_as(p) for part, p in zip(total.split(sizes), self._parameters, strict=True)]
        for piece, piece_gradient in zip(self._micro_batches, gradient.to(z.dtype).split(self._sizes), strict=True):
            gradients = torch.autograd.grad(piece, self._parameters, piece_gradient)
            torch._foreach_add_(slices, [part.double() for part in gradients])
        self._micro_batches = []
        for parameter, part in zip(self._parameters, self.world.sum(total).split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter)
        for method_gradient in self._method_gradients():
            method_gradient.copy_(method_gradient.to(z.dtype))

    def _method_squared_norm(self) -> Tensor:
        gradients = self._method_gradients()
        if not self._owned:
            counts = self.world.gather_objects([len(gradient) for gradient in gradients])
            self._owned = [Shares(sizes) for sizes in zip(*counts, strict=True)]
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for gradient, owned in zip(gradients, self._owned, strict=True):
            rows = sum_by_halves(gradient.double().square().flatten(1))
            total = total + sum_by_halves(self.world.gather_rows(rows, owned)[None])[0]
        return total


def sum_by_halves(rows: Tensor) -> Tensor:
    """Sum of each row of [n, m] -> [n], m > 0, elementwise, in an order that depends on m alone.

    A reduction of torch may choose its order by n.
    """
    while rows.shape[1] > 1:
        half = -(-rows.shape[1] // 2)
        first = rows[:, :half].clone()
        first[:, : rows.shape[1] - half] += rows[:, half:]
        rows = first
    return rows[:, 0]

"""The same bits on any number of ranks, in float32: the work is cut where no rank ends, and sums don't round."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.replicated import Replicated


class Reproducible(Replicated):
    """The student whole on each rank, embedding pieces that no rank divides, with gradients summed in float64.

    In float32 two orders of one sum differ by 6e-8 of it, and a kernel adds up a batch of another size in another
    order. That is harmless to the first step, but Adam's first steps are lr g / |g|, which turns rounding noise into
    steps of full length: after ten of them runs on 1 and 2 ranks differ by 1e-3 of the loss. So

    - the batch is cut into `runtime.lanes` pieces, each rank holds whole ones, as many as the next or one more, and
      both encoders embed one at a time: a kernel sees the same rows on any number of ranks;
    - the method computes in float64 and its gradient dL/dz is rounded to float32 once: two orders differ by 1e-16,
      which changes what it rounds to in about one entry of 1e8;
    - gradients of the pieces and of the ranks add up in float64 and are rounded once, likewise; so are those of the
      method's own parameters, which are complete on their owner.

    It costs 8 bytes a weight, and kernels that are smaller than they could be.

    Args:
        student: The network; its batch norm, if any, must be frozen.
        pieces: Views of each of the rank's pieces.
    """

    def __init__(
        self, student: nn.Module, updates: Updates, world: World, *, precision: str, pieces: Sequence[int]
    ) -> None:
        super().__init__(student, updates, world, precision=precision)
        self._sizes = list(pieces)
        self._pieces: list[Tensor] = []

    def embed(self, views: Tensor) -> Tensor:
        with self.autocast():
            self._pieces = [self.student(piece) for piece in views.split(self._sizes)]
        return torch.cat(self._pieces)

    def embed_constant(self, network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        with self.autocast():
            return torch.cat([network(piece) for piece in views.split(self._sizes)])

    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self._parameters]
        total = torch.zeros(sum(sizes), dtype=torch.float64, device=z.device)
        slices = [part.view_as(p) for part, p in zip(total.split(sizes), self._parameters, strict=True)]
        for piece, piece_gradient in zip(self._pieces, gradient.to(z.dtype).split(self._sizes), strict=True):
            gradients = torch.autograd.grad(piece, self._parameters, piece_gradient)
            torch._foreach_add_(slices, [each.double() for each in gradients])
        self._pieces = []
        for parameter, part in zip(self._parameters, self.world.sum(total).split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter)
        for own in self._own_gradients():
            own.copy_(own.to(z.dtype))

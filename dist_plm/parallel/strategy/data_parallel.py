"""Replicated student with averaged gradients: DistributedDataParallel."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_plm.distributed.world import World
from dist_plm.parallel.compiled import compiled
from dist_plm.parallel.loss_scale import LossScale
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.micro_batches import MicroBatches
from dist_plm.parallel.strategy.replicated import Replicated

# torch 2.14 renamed the option and warns about the old name.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}


class DataParallel(Replicated):
    """The student replicated on each rank, its gradient all-reduced during the backward pass.

    Args:
        micro_batches: Micro-batches of a rank's share, as in `MicroBatches`.
        compile: Use compiled kernels.

    Attributes:
        ddp: The DDP wrapper; None on one rank.
        loss_scale: In fp16 only.
    """

    def __init__(
        self, student: nn.Module, updates: Updates, world: World, *,
        precision: str, micro_batches: int, compile: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(student, updates, world, precision=precision)
        self._micro_batches = MicroBatches(micro_batches, world.device)
        self.loss_scale = LossScale(world.device) if precision == "fp16" else None
        ids = [world.device.index] if world.device.type == "cuda" else None
        self.ddp: DistributedDataParallel | None = None
        if world.size > 1:
            # Buffers are alike on all ranks already: frozen or synchronised batch norm (per_rank: rank 0's are saved).
            self.ddp = DistributedDataParallel(student, device_ids=ids, gradient_as_bucket_view=True, **_KEEP_BUFFERS)
        self._settled = False
        self._alone = compiled(student) if compile else student
        self._replica: nn.Module = self._alone
        if self.ddp:
            # Compiled around DDP, the backward graph is split at bucket boundaries, so that communication overlaps.
            self._replica = compiled(self.ddp) if compile else self.ddp

    def embed(self, views: Tensor) -> Tensor:
        self._settle_buckets(views[:1])
        with self.autocast():
            return (
                self._replica(views)
                if self._micro_batches.count == 1
                else self._micro_batches.embed(self._alone, views)
            )

    def _settle_buckets(self, view: Tensor) -> None:
        """Make a resumed run reduce gradients in the order of an uninterrupted one, before the first step of either.

        DDP assigns gradients to buckets in the order of the parameters, and reassigns them after its first backward in
        the order in which they were ready. In a ring of three or more ranks the position in the bucket determines the
        order of the sum over ranks: the first step after resuming would differ in the last bit. So both start with a
        backward with gradient 0, in evaluation mode, which changes no statistics and draws no random numbers.

        Args:
            view: [1, 3, h, w], or another input of the student.
        """
        if self.ddp is None or self._settled:
            return
        self._settled, training = True, self.student.training
        self.student.eval()
        with self.autocast(), torch.enable_grad():
            z = self.ddp(view)
        with self.world.waiting("all-reduce of gradients"):
            z.backward(torch.zeros_like(z))
        self.student.zero_grad()
        self.student.train(training)

    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        """See `Strategy.backward`.

        DDP averages: it computes (1/W) sum_r dz_r/dtheta' g_r. With g_r = W dL/dz_r this is dL/dtheta,
        for any number of rows on each rank: L is a sum over pairs, not a mean of per-rank means.
        """
        gradient = gradient * self.world.size
        if self.loss_scale:
            gradient = gradient * self.loss_scale.scale
        if self._micro_batches.count == 1:
            z.backward(gradient)
        else:
            for piece, piece_gradient, last in self._micro_batches.again(views, gradient):
                with self._synchronised(last), self.autocast():
                    self._replica(piece).backward(piece_gradient)
        if self.loss_scale:
            self.overflow = self.loss_scale.unscale(self.student)

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last or not self.ddp else self.ddp.no_sync()

    def state(self) -> dict[str, Tensor]:
        return self.loss_scale.state() if self.loss_scale else {}

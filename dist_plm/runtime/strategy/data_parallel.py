"""Every rank holds the whole student and averages its gradients with the others': DistributedDataParallel."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_plm.runtime.loss_scale import LossScale
from dist_plm.runtime.optimiser import Updates
from dist_plm.runtime.strategy.pieces import Pieces
from dist_plm.runtime.strategy.replicated import Replicated
from dist_plm.runtime.world import World

# torch 2.14 renamed the option and warns about the old name.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}


class DataParallel(Replicated):
    """The student whole on each rank, its gradient averaged while it is computed.

    Args:
        micro_batches: Pieces in which a rank embeds its share; see `Pieces`.

    Attributes:
        loss_scale: In fp16 only; the step after an overflow is scaled less.
    """

    def __init__(
        self, student: nn.Module, updates: Updates, world: World, *, precision: str, micro_batches: int
    ) -> None:
        super().__init__(student, updates, world, precision=precision)
        self._pieces = Pieces(micro_batches, world.device)
        self.loss_scale = LossScale(world.device) if precision == "fp16" else None
        ids = [world.device.index] if world.device.type == "cuda" else None
        self.replica: nn.Module = student
        if world.size > 1:
            # Buffers are alike on all ranks already: frozen or synchronised batch norm (per_rank: rank 0's are saved).
            self.replica = DistributedDataParallel(
                student, device_ids=ids, gradient_as_bucket_view=True, **_KEEP_BUFFERS
            )

    def embed(self, views: Tensor) -> Tensor:
        with self.autocast():
            return self.replica(views) if self._pieces.count == 1 else self._pieces.embed(self.student, views)

    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        """As the seam says.

        DDP averages: it computes (1/W) sum_r dz_r/dtheta' g_r. With g_r = W dL/dz_r this is dL/dtheta.
        """
        gradient = gradient * self.world.size
        if self.loss_scale:
            gradient = gradient * self.loss_scale.scale
        if self._pieces.count == 1:
            z.backward(gradient)
        else:
            for piece, piece_gradient, last in self._pieces.again(views, gradient):
                with self._synchronised(last), self.autocast():
                    self.replica(piece).backward(piece_gradient)
        if self.loss_scale:
            self.overflow = self.loss_scale.unscale(self.student)

    def _synchronised(self, last: bool) -> "nullcontext[None] | torch.autograd.grad_mode.no_grad":
        ddp = isinstance(self.replica, DistributedDataParallel)
        return nullcontext() if last or not ddp else self.replica.no_sync()  # type: ignore[operator]

    def state(self) -> dict[str, Tensor]:
        return self.loss_scale.state() if self.loss_scale else {}

"""How gradients of the embeddings become gradients of the weights, on all ranks: DistributedDataParallel."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_plm.runtime.loss_scale import LossScale
from dist_plm.runtime.world import World

# torch 2.14 renamed the option and warns about the old name.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


class DataParallel:
    """The student on all ranks: embeds a rank's views and pushes the gradient of its embeddings back.

    A method's loss is a function of embeddings, and each rank holds dL/dz of its own rows for the *global* L. So
    backward starts at z and not at a scalar, and a batch may be embedded in pieces: first all of it without gradient,
    then, once dL/dz is known, piece by piece with gradient. Each piece adds dz/dtheta' dL/dz, and the pieces sum to
    the gradient of the whole batch exactly, which the sum of losses over pieces would not (it lacks their cross pairs).
    A piece draws the same random numbers both times: dL/dz is that of the dropout masks under which z came about.

    Attributes:
        loss_scale: In fp16 only.
        overflow: Whether the last backward left the range of fp16 (scalar bool, the same on all ranks): the step must
            be left out, and the next one will be scaled less.
    """

    def __init__(self, student: nn.Module, world: World, *, precision: str, micro_batches: int) -> None:
        self.world, self.micro_batches = world, micro_batches
        self.autocast_dtype = PRECISIONS[precision] if precision in ("fp16", "bf16") else None
        self.loss_scale = LossScale(world.device) if precision == "fp16" else None
        self.overflow = torch.zeros((), dtype=torch.bool, device=world.device)
        ids = [world.device.index] if world.device.type == "cuda" else None
        self.replica: nn.Module = student
        if world.size > 1:
            # Buffers are alike on all ranks already: frozen or synchronised batch norm (per_rank: rank 0's are saved).
            self.replica = DistributedDataParallel(
                student, device_ids=ids, gradient_as_bucket_view=True, **_KEEP_BUFFERS
            )

    def autocast(self) -> torch.autocast:
        """The precision in which encoders run; distances, PCA and losses stay outside of it."""
        return torch.autocast(
            self.world.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=self.autocast_dtype is not None
        )

    def embed(self, views: Tensor) -> Tensor:
        """Views [b, 3, h, w] -> z [b, D], ready for `backward`."""
        with self.autocast():
            if self.micro_batches == 1:
                return self.replica(views)
            self._random_states, pieces = [], []
            with torch.no_grad():
                for piece in views.chunk(self.micro_batches):
                    self._random_states.append(self._random_state())
                    pieces.append(self._module(piece))
            return torch.cat(pieces)

    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        """Add dz/dtheta' dL/dz to the student's gradients, summed over the ranks.

        DDP averages: it computes (1/W) sum_r dz_r/dtheta' g_r. With g_r = W dL/dz_r this is dL/dtheta.
        """
        gradient = gradient * self.world.size
        if self.loss_scale:
            gradient = gradient * self.loss_scale.scale
        if self.micro_batches == 1:
            z.backward(gradient)
        else:
            self._replay(views, gradient)
        if self.loss_scale:
            self.overflow = self.loss_scale.unscale(self._module)

    def _replay(self, views: Tensor, gradient: Tensor) -> None:
        """Embed once more, piece by piece and with gradient, from the same random numbers."""
        pieces = list(
            zip(views.chunk(self.micro_batches), gradient.chunk(self.micro_batches), self._random_states, strict=True)
        )
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        for number, (piece, piece_gradient, state) in enumerate(pieces, start=1):
            with self._synchronised(number == len(pieces)), self.autocast(), torch.random.fork_rng(devices):
                torch.set_rng_state(state[0])
                if devices:
                    torch.cuda.set_rng_state(state[1], self.world.device)
                self.replica(piece).backward(piece_gradient)

    def _random_state(self) -> list[Tensor]:
        state = [torch.get_rng_state()]
        return [*state, torch.cuda.get_rng_state(self.world.device)] if self.world.device.type == "cuda" else state

    @property
    def _module(self) -> nn.Module:
        return self.replica.module if isinstance(self.replica, DistributedDataParallel) else self.replica

    def _synchronised(self, last: bool) -> "nullcontext[None] | torch.autograd.grad_mode.no_grad":
        ddp = isinstance(self.replica, DistributedDataParallel)
        return nullcontext() if last or not ddp else self.replica.no_sync()  # type: ignore[operator]

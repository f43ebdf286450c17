"""Interface of the parallel strategies: how the student is distributed over the ranks."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dist_plm.checkpoint.checkpoint import State
from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates, update

PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp64": torch.float64,
}


class Strategy(ABC):
    """Forward pass, backward pass and update of the student, distributed over the ranks.

    A method's loss is a function of embeddings, and each rank holds dL/dz of its own rows for the *global* L. So the
    backward pass starts at z, not at a scalar. The strategy does not distribute the method's own parameters: each is
    owned by one rank and updated there by torch's optimizer, with the same learning rate under any strategy.

    Attributes:
        student: The network; to embed with it outside of training, use the network returned by `whole`.
        overflow: Whether the last backward pass overflowed in fp16 (scalar bool, the same on all ranks), so that the
            optimizer step must be skipped.
        overlaps: Whether `embed_constant` may run concurrently with `embed`, on another stream.
    """

    overlaps = True

    def __init__(self, student: nn.Module, updates: Updates, world: World, *, precision: str) -> None:
        self.student, self.updates, self.world = student, updates, world
        self.overflow = torch.zeros((), dtype=torch.bool, device=world.device)
        dtype = PRECISIONS[precision]  # `auto` is resolved before
        self._autocast_dtype = dtype if precision in ("fp16", "bf16") else None

    def autocast(self) -> torch.autocast:
        """Autocast context of the encoders; distances, PCA and losses are computed outside of it."""
        return torch.autocast(
            self.world.device.type,
            dtype=self._autocast_dtype or torch.bfloat16,
            enabled=self._autocast_dtype is not None,
        )

    @abstractmethod
    def embed(self, views: Tensor) -> Tensor:
        """Embed views [b, 3, h, w] -> z [b, D], with the graph for `backward`."""

    def embed_constant(self, network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """Embed views [b, 3, h, w] -> [b, D] by a network without gradient, such as the teacher f_phi."""
        with self.autocast():
            return network(views)

    @abstractmethod
    def backward(self, views: Tensor, z: Tensor, gradient: Tensor) -> None:
        """Add dz/dtheta' dL/dz, summed over the ranks, to the gradients of the student.

        Args:
            views: The argument of `embed` [b, 3, h, w].
            z: The result of `embed` [b, D].
            gradient: dL/dz of the rank's own rows [b, D].
        """

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The student's gradients after `backward`, summed over the ranks; if they are sharded, this rank's shard."""

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """Sum of squares of the student's gradients, over all shards (float64 scalar). A collective."""

    @abstractmethod
    def move(self, void: Tensor) -> None:
        """Update the student unless `void` is not 0, and clear the gradients. May be a collective."""

    def finite(self) -> Tensor:
        """Whether all gradients on this rank are finite (scalar bool)."""
        norms = torch._foreach_norm([part for part in (*self.gradients(), *self._own_gradients()) if part.numel()])
        return torch.stack([norm.to(self.world.device) for norm in norms]).isfinite().all()

    @torch.no_grad()
    def step(self, void: Tensor) -> None:
        """Update student and method parameters, unless `void` (scalar, the same on all ranks) is not 0."""
        if self.updates.clip_norm:
            self._clip()
        self.move(void)
        if self.updates.own:
            update(self.updates.own, void)

    def _clip(self) -> None:
        """Scale the gradients of student and method by a common factor such that their norm is at most `clip_norm`."""
        own = self._own_gradients()
        total = self.squared_norm() + self.world.sum(sum_of_squares(own).to(self.world.device))
        factor = (self.updates.clip_norm * total.rsqrt()).clamp(max=1.0)  # for a norm of 0: inf, clamped to 1
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for part in (*self.gradients(), *own):
            alike.setdefault((part.device, part.dtype), []).append(part)
        for parts in alike.values():
            torch._foreach_mul_(parts, factor.to(parts[0]))

    def _own_gradients(self) -> list[Tensor]:
        groups = self.updates.own.param_groups if self.updates.own else []
        return [each.grad for group in groups for each in group["params"] if each.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """Additional tensors of the strategy for the checkpoint."""
        return {}

    @abstractmethod
    def weights(self, network: nn.Module) -> State:
        """State dict of the student or the teacher, to save, or to load into before `put_weights`. A collective."""

    @abstractmethod
    def put_weights(self, network: nn.Module, weights: State) -> None:
        """Restore the network from the result of `weights`, after loading into it. A collective."""

    @abstractmethod
    def moments(self) -> State:
        """Optimizer state of the student, by parameter name + `.` + name of the moment. A collective."""

    @abstractmethod
    def put_moments(self, moments: State) -> None:
        """Restore the optimizer state from the result of `moments`, after loading into it. A collective."""

    @abstractmethod
    def local(self, network: nn.Module) -> dict[str, Tensor]:
        """Weights and buffers of the student or the momentum encoder by name; if sharded, this rank's shard, which has
        the same elements of both networks."""

    @abstractmethod
    def whole(self, network: nn.Module) -> nn.Module:
        """The student or the momentum encoder with all weights on this rank, to embed outside of training. A
        collective; forward passes of the result are not, so ranks may run different numbers. Release it soon."""

    @abstractmethod
    def release(self) -> nn.Module:
        """The student as a plain module, as before it was wrapped, with its current weights. A collective."""


def sum_of_squares(tensors: list[Tensor]) -> Tensor:
    """Sum of squares in float64 (scalar), independent of the partition of the tensors up to 1e-16."""
    kept = [tensor for tensor in tensors if tensor.numel()]
    if not kept:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(torch._foreach_norm(kept, 2, dtype=torch.float64)).square().sum()

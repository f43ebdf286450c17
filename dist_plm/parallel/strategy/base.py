"""Interface of parallel strategies: how student, gradients and optimizer state are laid out over the ranks."""

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
    """The student on all ranks: embeds a rank's views, backpropagates from the embeddings, and steps the optimizer.

    A method's loss is a function of embeddings, and each rank holds dL/dz of its own rows for the *global* L, so
    backward starts at z instead of a scalar. A strategy does not partition the method's parameters: each is held by
    one rank and updated there by a torch optimizer, with the same learning rate under any strategy.

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
    def move(self, skip: Tensor) -> None:
        """Optimizer step of the student, skipped if `skip` is not 0; clears the gradients. May be a collective."""

    def finite(self) -> Tensor:
        """Whether all gradients that this rank keeps are finite (scalar bool)."""
        norms = torch._foreach_norm([part for part in (*self.gradients(), *self._method_gradients()) if part.numel()])
        return torch.stack([norm.to(self.world.device) for norm in norms]).isfinite().all()

    @torch.no_grad()
    def step(self, skip: Tensor) -> None:
        """Update the student and the method's parameters if `skip` (scalar, equal on all ranks) is 0."""
        if self.updates.clip_norm:
            self._clip()
        self.move(skip)
        if self.updates.method:
            update(self.updates.method, skip)

    def _clip(self) -> None:
        """Scale all gradients, the student's and the method's, so that their norm is at most `clip_norm`."""
        gradients = self._method_gradients()
        total = self.squared_norm() + self._method_squared_norm()
        factor = (self.updates.clip_norm * total.rsqrt()).clamp(max=1.0)  # for a norm of 0: inf, clamped to 1
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for part in (*self.gradients(), *gradients):
            alike.setdefault((part.device, part.dtype), []).append(part)
        for parts in alike.values():
            torch._foreach_mul_(parts, factor.to(parts[0]))

    def _method_squared_norm(self) -> Tensor:
        """Sum of squares of the gradients of the method's parameters, of all owners (float64 scalar). A collective."""
        return self.world.sum(sum_of_squares(self._method_gradients()).to(self.world.device))

    def _method_gradients(self) -> list[Tensor]:
        groups = self.updates.method.param_groups if self.updates.method else []
        return [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """Additional tensors of the strategy for the checkpoint."""
        return {}

    @abstractmethod
    def weights(self, network: nn.Module) -> State:
        """State dict of the student or the teacher, to save, or to load into before `put_weights`. A collective."""

    @abstractmethod
    def put_weights(self, network: nn.Module, weights: State) -> None:
        """Set the weights from the result of `weights`, filled from a checkpoint. A collective."""

    @abstractmethod
    def moments(self) -> State:
        """Optimizer state of the student, by parameter name + `.` + name of the moment. A collective."""

    @abstractmethod
    def put_moments(self, moments: State) -> None:
        """Set the moments from the result of `moments`, filled from a checkpoint. A collective."""

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

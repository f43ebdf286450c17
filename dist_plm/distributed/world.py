"""The ranks of a run. The only module that calls collectives; with one rank every one of them is the identity."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from dist_plm.distributed.health import Health
from dist_plm.distributed.preemption import Preempted, Preemption
from dist_plm.distributed.shares import Shares
from dist_plm.errors import RunFailure
from dist_plm.telemetry.parts import part

# One of these is in the message of a RuntimeError of gloo about a peer that is gone, or of NCCL's watchdog.
_TRANSPORT = ("gloo", "nccl", "connection", "timed out", "timeout", "peer", "socket")

# torch 2.13 renamed the two tensor collectives and warns about the old names; 2.11 has only those.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

POLL_SECONDS = 0.5

T = TypeVar("T")


class RankFailure(RunFailure):
    """A collective did not end: another rank died, or hung for longer than `runtime.timeout_seconds`."""


class _GatherRows(torch.autograd.Function):
    """x_r [b_r, ...] on each rank r -> [sum_r b_r, ...] on all. The adjoint of a copy to every rank is the sum of what
    comes back from every rank: with L = sum_r L_r, dL/dx_r = sum_q (dL_q/dx_gathered)[rows of r], a reduce-scatter.

    Both collectives move equal blocks (gloo has no other), so each rank's rows are padded to the largest share: at most
    one row more where shares are even."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, shares: Shares) -> Tensor:
        ctx.shares, ctx.own = shares, len(rows)  # type: ignore[attr-defined]
        padded = rows.contiguous() if len(rows) == shares.largest else _padded([rows], shares.largest)
        gathered = rows.new_empty((len(shares.sizes) * shares.largest, *rows.shape[1:]))
        _all_gather(gathered, padded)
        if shares.equal:
            return gathered
        blocks = gathered.split(shares.largest)
        return torch.cat([block[:size] for block, size in zip(blocks, shares.sizes, strict=True)])

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        shares: Shares = ctx.shares  # type: ignore[attr-defined]
        padded = gradient.contiguous() if shares.equal else _padded(gradient.split(shares.sizes), shares.largest)
        own = gradient.new_empty((shares.largest, *gradient.shape[1:]))
        _reduce_scatter(own, padded, op=dist.ReduceOp.SUM)
        return own[: ctx.own], None  # type: ignore[attr-defined]


def _padded(blocks: Sequence[Tensor], rows: int) -> Tensor:
    """Blocks [b_r, ...] one after another, each followed by zeros up to `rows`."""
    zeros = blocks[0].new_zeros((rows - min(map(len, blocks)), *blocks[0].shape[1:]))
    return torch.cat([each for block in blocks for each in (block, zeros[: rows - len(block)])])


class _AllReduceSum(torch.autograd.Function):
    """sum_r x_r on every rank; its adjoint is the same sum over the gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size`, computing on `device`; nodes of `node_size` ranks each, of 1 where they differ in size."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    health: Health | None = None
    preemption: Preemption | None = None
    timeout: timedelta | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def told(self) -> int:
        """A signal to leave that this rank caught, or another one about a second ago; 0 for none. Waits for nobody."""
        own = self.preemption.signal if self.preemption else 0
        if not self.health:
            return own
        self.health.told = own
        return own or self.health.heard

    def at(self, step: int) -> None:
        """Tell the other ranks, in case they ask, how far this one is."""
        if self.health:
            self.health.beat.step = step

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Around whatever waits for other ranks: a lost one ends the wait with its name.

        NCCL, the store and the rendezvous raise torch's DistError. gloo raises a plain RuntimeError that names the
        transport; other RuntimeErrors pass through.
        """
        if self.health:
            self.health.beat.doing = what
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            lost = isinstance(error, dist.DistError) or any(word in text.lower() for word in _TRANSPORT)
            if not self.health or not lost:
                raise
            raise RankFailure(f"{what} failed: {self.health.diagnose()} ({text.splitlines()[0][:160]})") from error
        if self.health:
            self.health.beat.doing = "its own work"

    def gather_rows(self, rows: Tensor, shares: Shares | None = None) -> Tensor:
        """[b, ...] on each rank -> [sum of b, ...] in the order of the ranks, with exact gradient.

        Args:
            shares: How many rows each rank has; None: as many as this one.
        """
        if self.size == 1:
            return rows
        shares = self.shares_of(rows, shares)
        with part("gather"), self.waiting(f"all-gather of {tuple(rows.shape)}"):
            return _GatherRows.apply(rows, shares)

    def own_rows(self, rows: Tensor, shares: Shares | None = None) -> Tensor:
        """Where `gather_rows` puts the rows [b, ...] of this rank: int64 [b]."""
        first = self.shares_of(rows, shares).offsets[self.rank]
        return first + torch.arange(len(rows), device=rows.device)

    def shares_of(self, rows: Tensor, shares: Shares | None) -> Shares:
        """How many rows each rank has where this one has `rows`: `shares`, or as many on each if None."""
        if shares is None or self.size == 1:
            return Shares(self.size * (len(rows),))
        if (len(shares.sizes), shares.sizes[self.rank]) != (self.size, len(rows)):
            raise ValueError(f"{len(rows)} rows on rank {self.rank} of {self.size}, expected {shares.sizes}")
        return shares

    def exchange_rows(self, rows: Tensor) -> Tensor:
        """[W b, ...] with b rows for each rank -> [W b, ...], the b rows of each rank for this one, in their order."""
        if self.size == 1:
            return rows
        received = torch.empty_like(rows, memory_format=torch.contiguous_format)
        with part("gather"), self.waiting(f"exchange of {tuple(rows.shape)}"):
            dist.all_to_all_single(received, rows.contiguous())
        return received

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the ranks, with exact gradient."""
        if self.size == 1:
            return value
        with part("gather"), self.waiting(f"all-reduce of {tuple(value.shape)}"):
            return _AllReduceSum.apply(value)

    def end_of_step(self, void: Tensor) -> tuple[Tensor, bool]:
        """What the ranks agree on once a step, in one all-reduce on the device. A collective.

        A signal to leave travels in it without a copy to the host: the all-reduce asks whether any rank has *not* heard
        of one, and only a rank that has heard reads the answer. So each rank either contributed "not heard", and knows
        the answer, or reads it. All act in the same step, the first in which all have heard (`told`).

        Args:
            void: Whether the step must not count (scalar bool).

        Returns:
            Whether it is void on any rank, as 0 or 1 on the device, which nobody waits to read; and whether all ranks
            were told to leave, for `leave_if_told`.
        """
        told, value = self.told != 0, void.to(torch.float32)
        if self.size == 1:
            return value, told
        both = torch.stack([value, value.new_full((), 0.0 if told else 1.0)])
        with part("gather"), self.waiting("agreement on the step"):
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
            return both[0], told and both[1].item() == 0

    def agree(self, flag: int) -> int:
        """The largest flag of all ranks: a decision is taken together or not at all. Travels over the CPU group."""
        if self.size == 1:
            return flag
        value = torch.tensor(flag, dtype=torch.int64)
        with self.waiting("agreement of the ranks"):
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)

    def leave_if_told(self) -> None:
        """Raise Preempted on all ranks if any was told to leave. A collective."""
        if number := self.agree(self.told):
            raise Preempted(number)

    def gather_objects(self, value: Any) -> list[Any]:
        """One small picklable object of each rank, on all ranks. The ranks of a run trust each other."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.waiting("exchange between the ranks"):
            dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, picklable, on all ranks; the others wait for it."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_first else None]
        with self.waiting("word of the first rank"):
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def from_first_at_length(self, make: Callable[[], T]) -> T:
        """As `from_first`, for work that may take longer than `runtime.timeout_seconds`.

        The ranks exchange a number twice a second meanwhile: a first rank that died ends the wait of the others, one
        that is busy does not.
        """
        if self.size == 1:
            return make()
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(make) if self.is_first else None
            while not self.agree(int(made.done()) if made else 0):
                time.sleep(POLL_SECONDS)
            return self.from_first(lambda: made.result())  # type: ignore[union-attr]

    def barrier(self, what: str) -> None:
        """Wait for all ranks at `what`, `runtime.timeout_seconds` at most."""
        if self.size > 1:
            self.gather_objects(what)

    def new_group(self) -> dist.ProcessGroup:
        """All ranks once more, on the CPU, for a thread whose collectives must not meet the others'. A collective."""
        # torch would wait for half an hour on any group but the first.
        group = dist.new_group(backend="gloo", timeout=self.timeout)
        assert isinstance(group, dist.ProcessGroup)
        return group

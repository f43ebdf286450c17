"""The ranks of a run. The only module that calls collectives; each is the identity for a world size of 1."""

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
from dist_plm.errors import RunFailure, UserError
from dist_plm.telemetry.parts import part

# Substrings of the RuntimeError that gloo raises for a lost peer, and of NCCL's watchdog.
_TRANSPORT = ("gloo", "nccl", "connection", "timed out", "timeout", "peer", "socket")

# torch 2.13 renamed the two tensor collectives and warns about the old names; 2.11 has only those.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

POLL_SECONDS = 0.5

T = TypeVar("T")


class RankFailure(RunFailure):
    """A collective failed: another rank died, or hung for longer than `runtime.timeout_seconds`."""


class _GatherRows(torch.autograd.Function):
    """x_r [b_r, ...] on each rank r -> [sum_r b_r, ...] on all. The adjoint of a copy to every rank is the sum of the
    gradients of all ranks: with L = sum_r L_r, dL/dx_r = sum_q (dL_q/dx_gathered)[rows of r], a reduce-scatter.

    Both collectives need blocks of equal size in gloo, so each rank's rows are padded to the largest share: by at most
    one row for even shares."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, shares: Shares) -> Tensor:
        ctx.shares, ctx.rows = shares, len(rows)  # type: ignore[attr-defined]
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
        local = gradient.new_empty((shares.largest, *gradient.shape[1:]))
        _reduce_scatter(local, padded, op=dist.ReduceOp.SUM)
        return local[: ctx.rows], None  # type: ignore[attr-defined]


def _padded(blocks: Sequence[Tensor], rows: int) -> Tensor:
    """Blocks [b_r, ...] concatenated, each zero-padded to `rows`."""
    zeros = blocks[0].new_zeros((rows - min(map(len, blocks)), *blocks[0].shape[1:]))
    return torch.cat([part for block in blocks for part in (block, zeros[: rows - len(block)])])


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
    """Rank `rank` of `size`, computing on `device`; `node_size` ranks per node, 1 if nodes differ in size."""

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
    def signal(self) -> int:
        """Signal caught by this rank, or by another about a second ago; 0 for none. Non-blocking."""
        caught = self.preemption.signal if self.preemption else 0
        if not self.health:
            return caught
        self.health.caught = caught
        return caught or self.health.announced

    def at(self, step: int) -> None:
        """Set the step that this rank's heartbeats report."""
        if self.health:
            self.health.beat.step = step

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Context of every wait for other ranks: a lost rank ends it with a RankFailure that names it.

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
        """All-gather with exact gradient: [b, ...] on each rank -> [sum of b, ...], in rank order.

        Args:
            shares: Rows of each rank; None: the same number on all.
        """
        if self.size == 1:
            return rows
        shares = self.shares_of(rows, shares)
        with part("gather"), self.waiting(f"all-gather of {tuple(rows.shape)}"):
            return _GatherRows.apply(rows, shares)

    def own_rows(self, rows: Tensor, shares: Shares | None = None) -> Tensor:
        """Positions of this rank's rows [b, ...] in the result of `gather_rows`: int64 [b]."""
        first = self.shares_of(rows, shares).offsets[self.rank]
        return first + torch.arange(len(rows), device=rows.device)

    def shares_of(self, rows: Tensor, shares: Shares | None) -> Shares:
        """Rows of each rank: `shares`, or the number of `rows` on all ranks if None."""
        if shares is None or self.size == 1:
            return Shares(self.size * (len(rows),))
        if (len(shares.sizes), shares.sizes[self.rank]) != (self.size, len(rows)):
            raise ValueError(f"{len(rows)} rows on rank {self.rank} of {self.size}, expected {shares.sizes}")
        return shares

    def exchange_rows(self, rows: Tensor) -> Tensor:
        """All-to-all: [W b, ...] with b rows for each rank -> [W b, ...], the b rows of each rank for this one."""
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

    def end_of_step(self, skip: Tensor) -> tuple[Tensor, bool]:
        """Agreement at the end of a step: one all-reduce on the device. A collective.

        It also carries a signal to exit, without a copy to the host: the all-reduce asks whether any rank does *not*
        know of one, and only a rank that does reads the result. Every rank thus either contributed "not known" and
        knows the result, or reads it, and all exit after the same step: the first at which all know.

        Args:
            skip: Whether this rank's step must be skipped (scalar bool).

        Returns:
            Whether any rank must skip it, as 0 or 1 on the device, without synchronisation; and whether all ranks know
            of a signal, the same on all ranks.
        """
        leaving, value = self.signal != 0, skip.to(torch.float32)
        if self.size == 1:
            return value, leaving
        both = torch.stack([value, value.new_full((), 0.0 if leaving else 1.0)])
        with part("gather"), self.waiting("all-reduce of the step's state"):
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
            return both[0], leaving and both[1].item() == 0

    def agree(self, flag: int) -> int:
        """The maximum of a flag over the ranks, by an all-reduce on the CPU group."""
        if self.size == 1:
            return flag
        value = torch.tensor(flag, dtype=torch.int64)
        with self.waiting("all-reduce of a flag"):
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)

    def leave_if_signalled(self) -> None:
        """Raise Preempted on all ranks if any caught a signal. A collective."""
        if number := self.agree(self.signal):
            raise Preempted(number)

    def gather_objects(self, value: Any) -> list[Any]:
        """All-gather of one small picklable object per rank; the ranks of a run trust each other."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.waiting("all-gather of objects"):
            dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 and broadcast its picklable result."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_first else None]
        with self.waiting("broadcast from rank 0"):
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def together(self, act: Callable[[], T]) -> T:
        """Result of `act`, which calls no collective, on this rank. A collective.

        Raises:
            UserError: `act` raised it on some rank: all raise it, with that rank's number, and none waits for it.
            RunFailure: Likewise.
        """
        made: list[T] = []
        fault: tuple[type[Exception], str] | None = None
        try:
            made.append(act())
        except (UserError, RunFailure) as error:
            if self.size == 1:
                raise
            fault = type(error), str(error)
        faults = self.gather_objects(fault)
        failures = [(rank, *fault) for rank, fault in enumerate(faults) if fault]
        if not failures:
            return made[0]
        rank, kind, text = failures[0]
        raise kind(text if len(failures) == self.size else f"rank {rank}: {text}")

    def from_first_at_length(self, make: Callable[[], T]) -> T:
        """As `from_first`, for work that may take longer than `runtime.timeout_seconds`.

        Meanwhile the ranks all-reduce a number twice a second: the wait ends if rank 0 died, not if it is busy.
        """
        if self.size == 1:
            return make()
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(make) if self.is_first else None
            while not self.agree(int(made.done()) if made else 0):
                time.sleep(POLL_SECONDS)
            return self.from_first(lambda: made.result())  # type: ignore[union-attr]

    def barrier(self, what: str) -> None:
        """Wait for all ranks at `what`, at most `runtime.timeout_seconds`."""
        if self.size > 1:
            self.gather_objects(what)

    def new_group(self) -> dist.ProcessGroup:
        """A second CPU group of all ranks, for collectives of another thread. A collective."""
        # The time-out of a new group is 30 minutes by default, whatever that of the first.
        group = dist.new_group(backend="gloo", timeout=self.timeout)
        assert isinstance(group, dist.ProcessGroup)
        return group

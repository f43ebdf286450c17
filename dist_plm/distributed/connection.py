"""Joining the ranks of a run, on the device and with the threads that are this one's, and leaving them."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from dist_plm.config import RuntimeConfig
from dist_plm.distributed.device import choose_device, set_arithmetic
from dist_plm.distributed.environment import number, place
from dist_plm.distributed.health import Health
from dist_plm.distributed.listening import ending_at_once
from dist_plm.distributed.network import choose_interface
from dist_plm.distributed.preemption import PREEMPTED, Preemption
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure, UserError

NCCL_PATIENCE = 3  # times runtime.timeout_seconds


def connect(config: RuntimeConfig, preemption: Preemption | None = None) -> World:
    """Join the process group described by the environment (`env://`: torchrun's variables), or stand alone.

    Args:
        preemption: Who hears of signals, in a command that can leave and go on later.

    Raises:
        UserError: a GPU was asked for and there is none, or the environment is incomplete or contradicts itself.
    """
    rank, size, local_rank = place()
    device = choose_device(config, local_rank)
    set_arithmetic(precision="fp32", reproducible=False, device=device)
    timeout = timedelta(seconds=config.timeout_seconds)
    caught, status = (preemption.signal, PREEMPTED) if preemption else (0, None)
    with ending_at_once("waiting for the other ranks", status, caught):
        _meet(rank, size, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout)
        if device.type == "cuda" and size > 1:
            patient_nccl(timeout)
        health = Health(rank, size, dist.distributed_c10d._get_default_store()) if size > 1 else None
        world = World(rank, size, local_rank, device=device, health=health, preemption=preemption, timeout=timeout)
        cores, sizes = zip(*world.gather_objects((_cores(), number("LOCAL_WORLD_SIZE", 1))), strict=True)
        if health:
            health.compare(world.gather_objects(time.monotonic()))  # all left the exchange above at about the same time
    share = fair_share(rank, list(cores))
    torch.set_num_threads(config.threads or (1 if config.strategy == "reproducible" else share))
    return replace(world, node_size=node_size(sizes))


def patient_nccl(timeout: timedelta) -> None:
    """Let NCCL's watchdog wait longer than gloo does.

    It aborts the process at its time-out, without the words of `World.waiting`. At every log step the ranks meet over
    gloo first, which finds and names a rank that hangs.
    """
    group = dist.distributed_c10d._get_default_group()
    group._get_backend(torch.device("cuda"))._set_default_timeout(NCCL_PATIENCE * timeout)


def _meet(rank: int, size: int, backend: str, timeout: timedelta) -> None:
    """Form the process group."""
    if size == 1:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(f"WORLD_SIZE is {size} but {' and '.join(missing)} not set: start ranks with torchrun")
    port = number("MASTER_PORT", 0)
    choose_interface(os.environ["MASTER_ADDR"])
    try:
        dist.init_process_group(backend, timeout=timeout)
    except dist.DistError as error:
        raise _not_met(error, rank, port, timeout) from error


def node_size(said: Sequence[int]) -> int:
    """Ranks of each node, from what each rank says of its own; 1 where nodes have different numbers of them."""
    return said[0] if said[0] > 0 and len(set(said)) == 1 and len(said) % said[0] == 0 else 1


def fair_share(rank: int, cores: list[set[tuple[str, int]]]) -> int:
    """How many cores `rank` may keep busy, from those that each rank may run on.

    torchrun's ranks share all that the machine gives them; Slurm may have bound each task to its own.
    """
    sharing = sum(bool(cores[rank] & others) for others in cores)
    return max(1, len(cores[rank]) // sharing)


def _cores() -> set[tuple[str, int]]:
    """(host, number) of the cores that this process may run on."""
    # Only Linux says which.
    numbers = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {(socket.gethostname(), number) for number in numbers}


def _not_met(error: Exception, rank: int, port: int, timeout: timedelta) -> Exception:
    """What to tell a person when the ranks did not find each other."""
    if "EADDRINUSE" in str(error):
        return UserError(
            f"port {port} of this machine is taken, perhaps by another run: give torchrun another --master_port, "
            "or --standalone on one machine"
        )
    return RunFailure(
        f"rank {rank} did not meet the others at {os.environ['MASTER_ADDR']} port {port} within "
        f"{timeout.total_seconds():,.0f} s: check that all nodes started, and that this address can be reached from all"
    )


def disconnect(world: World) -> None:
    """Leave the process group."""
    if world.health:
        world.health.close()
    dist.destroy_process_group()

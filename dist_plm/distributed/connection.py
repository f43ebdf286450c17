"""Setup and teardown of the process group: rendezvous, device and compute threads of this rank."""

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
from dist_plm.distributed.interface import choose_interface
from dist_plm.distributed.listening import ending_at_once
from dist_plm.distributed.preemption import PREEMPTED, Preemption
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure, UserError

NCCL_PATIENCE = 3  # times runtime.timeout_seconds


def connect(config: RuntimeConfig, preemption: Preemption | None = None) -> World:
    """Join the process group described by the environment (`env://`, torchrun's variables); one rank without them.

    Args:
        preemption: Receives signals, in a command that can be preempted and resumed.

    Raises:
        UserError: A GPU was requested and there is none, or the environment variables are incomplete or inconsistent.
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
            health.compare(world.gather_objects(time.monotonic()))  # ranks leave the exchange above together
    share = fair_share(rank, list(cores))
    torch.set_num_threads(config.threads or (1 if config.strategy == "reproducible" else share))
    return replace(world, node_size=node_size(sizes))


def patient_nccl(timeout: timedelta) -> None:
    """Give NCCL's watchdog a longer time-out than gloo.

    The watchdog aborts the process at its time-out, without the diagnosis of `World.waiting`. At every log step the
    ranks first meet in a collective over gloo, which times out before and names the rank that hangs.
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
    """Ranks per node, from the local world size that each rank reports; 1 if it differs between nodes."""
    return said[0] if said[0] > 0 and len(set(said)) == 1 and len(said) % said[0] == 0 else 1


def fair_share(rank: int, cores: list[set[tuple[str, int]]]) -> int:
    """Number of compute threads for `rank`, from the CPU affinity of every rank.

    Ranks of torchrun share all cores of the machine; Slurm may have bound each task to cores of its own.
    """
    sharing = sum(bool(cores[rank] & others) for others in cores)
    return max(1, len(cores[rank]) // sharing)


def _cores() -> set[tuple[str, int]]:
    """(host, number) of the cores that this process may run on."""
    # Only Linux reports the affinity.
    numbers = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {(socket.gethostname(), number) for number in numbers}


def _not_met(error: Exception, rank: int, port: int, timeout: timedelta) -> Exception:
    """The error to raise after a failed rendezvous."""
    if "EADDRINUSE" in str(error):
        return UserError(
            f"port {port} of this machine is in use, perhaps by another run: give torchrun another --master_port, "
            "or --standalone on one machine"
        )
    return RunFailure(
        f"rank {rank} could not connect to the other ranks at {os.environ['MASTER_ADDR']} port {port} within "
        f"{timeout.total_seconds():,.0f} s: check that all nodes started and can reach this address"
    )


def disconnect(world: World) -> None:
    """Leave the process group."""
    if world.health:
        world.health.close()
    dist.destroy_process_group()

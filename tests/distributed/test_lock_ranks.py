"""A folder that not all ranks reach, or that another run holds: all are told, and none waits for the others."""

from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from benchmarks.common import on_ranks
from dist_plm.checkpoint.lock import Lock
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from tests.unit.test_lock import held_by_another


def locked(world: World, folder: Path) -> str:
    try:
        Lock(folder if world.is_first else folder / "of_this_machine", world, grace_seconds=0.5)
    except UserError as error:
        return str(error)
    return ""


def test_a_folder_of_one_machine_alone(tmp_path: Path) -> None:
    told = on_ranks(2, tmp_path, locked, tmp_path)
    assert all("No such file or directory, on rank 1" in each for each in told), told


def refused(world: World, folder: Path) -> str:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    try:
        Lock(folder, world, grace_seconds=3)
    except UserError as error:
        return str(error)
    return ""


def test_a_folder_in_use_is_told_after_the_time_out_of_a_collective(tmp_path: Path) -> None:
    holder = held_by_another(tmp_path, 60)
    try:
        told = on_ranks(2, tmp_path, refused, tmp_path)
    finally:
        holder.kill()
        holder.wait()
    assert all("in use by process 7 on host" in each for each in told), told

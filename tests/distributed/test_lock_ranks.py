"""A folder that not all ranks reach: all are told, and none waits for the others."""

from pathlib import Path

from benchmarks.common import on_ranks
from dist_plm.checkpoint.lock import Lock
from dist_plm.distributed.world import World
from dist_plm.errors import UserError


def locked(world: World, folder: Path) -> str:
    try:
        Lock(folder if world.is_first else folder / "of_this_machine", world, grace_seconds=0.5)
    except UserError as error:
        return str(error)
    return ""


def test_a_folder_of_one_machine_alone(tmp_path: Path) -> None:
    told = on_ranks(2, tmp_path, locked, tmp_path)
    assert all("No such file or directory, on rank 1" in each for each in told), told

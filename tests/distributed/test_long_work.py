"""Saves that leave nothing behind, and work of the first rank that takes longer than a wait may."""

import gc
import os
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from benchmarks.common import on_ranks
from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.checkpoint import Sharded
from dist_plm.checkpoint.saver import Saver
from dist_plm.config import CheckpointConfig
from dist_plm.distributed.connection import NCCL_PATIENCE, patient_nccl
from dist_plm.distributed.world import World
from dist_plm.telemetry.progress import Display

SAVES = 30


def resources() -> tuple[int, int, int]:
    """Process groups, threads and open files of this process, without those that wait for a garbage collection."""
    gc.collect()
    return len(dist.distributed_c10d._world.pg_map), threading.active_count(), len(os.listdir("/proc/self/fd"))


def with_cuda(function):
    """The function as on a machine with GPUs: there a mesh that is made by device type makes a group of its own."""

    def called(*arguments):
        absent, torch.cuda.is_available = torch.cuda.is_available, lambda: True
        try:
            return function(*arguments)
        finally:
            torch.cuda.is_available = absent

    return called


def saved(world: World, folder) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    checkpoint._distributed = with_cuda(checkpoint._distributed)
    saver = Saver(folder, world, Display(world), CheckpointConfig(keep=1))
    state = {"rows": Sharded(torch.zeros(3, 4), 3 * world.size), "weight": torch.zeros(5)}
    counts = []
    for step in range(1, SAVES + 1):
        saver.save(step, state, {})
        saver.finish()
        if step in (3, SAVES):
            counts.append(resources())
    return counts[0], counts[1]


def test_saves_leave_no_group_thread_or_file_open(tmp_path):
    for early, late in on_ranks(2, tmp_path, saved, tmp_path / "checkpoints"):
        assert late == early


def patient(world: World) -> str:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
    return world.from_first_at_length(lambda: time.sleep(5) or "done")  # type: ignore[func-returns-value]


def impatient(world: World) -> str:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
    return world.from_first(lambda: time.sleep(5) or "done")  # type: ignore[func-returns-value]


def test_the_others_wait_for_the_first_rank_longer_than_for_a_collective(tmp_path):
    assert on_ranks(2, tmp_path, patient) == ["done", "done"]
    with pytest.raises(AssertionError, match=r"failed|left nothing"):  # the bound was in force
        on_ranks(2, tmp_path, impatient)


def test_nccl_waits_longer_than_gloo(monkeypatch):
    said = []

    class Backend:
        def _set_default_timeout(self, timeout: timedelta) -> None:
            said.append(timeout)

    class Group:
        def _get_backend(self, device: torch.device) -> Backend:
            assert device.type == "cuda"
            return Backend()

    monkeypatch.setattr(dist.distributed_c10d, "_get_default_group", Group)
    patient_nccl(timedelta(seconds=600))
    assert said == [NCCL_PATIENCE * timedelta(seconds=600)] and NCCL_PATIENCE > 1

"""A signal during training: all ranks leave after the same step, and no step waits for a word between hosts."""

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import build_demo, events, on_ranks
from dist_plm import train as training
from dist_plm.distributed.preemption import PREEMPTED, Preemption
from dist_plm.distributed.world import World
from dist_plm.training.learner import Learner
from tests.end_to_end.conftest import TINY, Here, here

__all__ = ["here"]


class Reads(TorchDispatchMode):
    """Counts the values that the host reads from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def ends_of_steps(world: World) -> dict[str, Any]:
    """Steps before there is a signal, after rank 1 has caught one, and after rank 0 knows of it."""
    preemption, seen = Preemption(), {}
    world = replace(world, preemption=preemption)

    def end(name: str, skip: bool) -> None:
        world.barrier(name)
        with Reads() as reads:
            anywhere, leaving = world.end_of_step(torch.tensor(skip))
        seen[name] = (anywhere.item(), leaving, reads.count)

    end("nobody", skip=world.rank == 0)
    health = world.health
    assert health is not None
    if world.rank == 1:
        preemption.signal = int(signal.SIGUSR2)
    else:
        kept, health.announced = health.announced, 0
        assert not kept
    end("one", skip=False)
    deadline = time.monotonic() + 30
    while not world.signal and time.monotonic() < deadline:
        time.sleep(0.01)
    end("all", skip=world.rank == 1)
    seen["signal"] = (world.agree(world.signal),)
    return seen


def test_all_ranks_leave_after_the_step_in_which_all_have_heard(tmp_path: Path) -> None:
    ranks = on_ranks(2, tmp_path, ends_of_steps)
    assert [rank["nobody"] for rank in ranks] == [(1, False, 0)] * 2
    assert [rank["one"] for rank in ranks] == [(0, False, 0), (0, False, 1)]  # who knows of a signal looks
    assert [rank["all"] for rank in ranks] == [(1, True, 1)] * 2
    assert [rank["signal"] for rank in ranks] == [(signal.SIGUSR2,)] * 2


def test_hosts_agree_at_log_steps_alone(tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run, calls = tmp_path / "tiny.yaml", tmp_path / "run", Counter[int]()
    config.write_text(TINY.replace("data: {", f"data: {{shards: {build_demo(tmp_path / 'demo')}, "))
    agree, step = World.agree, Learner.step

    def counted(world: World, flag: int) -> int:
        calls[calls[-1]] += calls[-1] > 0
        return agree(world, flag)

    def told_in_the_fourth(self, batch, number, steps):
        calls[-1] = number + 1  # the step under way
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number, steps)

    monkeypatch.setattr(World, "agree", counted)
    monkeypatch.setattr(Learner, "step", told_in_the_fourth)
    often = ("--train.log_steps", 3, "--checkpoint.every_steps", 100)
    outcome = here(training.main, "--config", config, "--run_dir", run, *often)
    assert outcome.status == PREEMPTED, outcome
    # After the fourth step on the signal, and once more to save.
    assert [calls[number] for number in range(1, 5)] == [0, 0, 1, 2]
    assert events(run, "preempted")[0]["step"] == 4

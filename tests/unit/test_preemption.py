"""Which signals are caught, and what a rank does that torchrun left behind."""

import os
import signal
import time
from unittest.mock import Mock

import pytest

from dist_plm.checkpoint.position import Position
from dist_plm.distributed.preemption import Preemption
from dist_plm.training.trainer import Trainer


def test_what_is_configured_sets_the_flag_and_nothing_else_does() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    with Preemption(["SIGUSR1", "SIGTERM"]) as preemption:
        assert preemption.signal == 0 and signal.getsignal(signal.SIGUSR2) == before[signal.SIGUSR2]
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.signal == signal.SIGUSR1  # the first
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigint_twice_leaves_at_once(first: signal.Signals) -> None:
    with Preemption(["SIGINT", "SIGTERM"]) as preemption:
        os.kill(os.getpid(), first)
        if first != signal.SIGINT:
            os.kill(os.getpid(), signal.SIGINT)
        assert preemption.signal == first
        with pytest.raises(SystemExit) as leaving:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert leaving.value.code == 128 + signal.SIGINT


@pytest.mark.parametrize("launched", [True, False])
def test_a_rank_without_its_launcher_is_told_to_leave(launched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with Preemption([]) as preemption:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        time.sleep(1.5)
        assert preemption.signal == (signal.SIGTERM if launched else 0)


@pytest.mark.parametrize("steps", [0, 7])
def test_a_run_that_is_left_tells_of_a_checkpoint_only_if_it_saved_one(steps: int) -> None:
    run, saved = Mock(at=Position(step=steps)), f"checkpoint saved at step {steps}; rerun the command to resume"
    told = Trainer._leave(run, signal.SIGTERM)
    assert run._save.called == (steps > 0) == (told == saved)
    assert "rerun the command to" in told

"""A rank that dies ends the run on all ranks, soon, and all say who it was; a loss that is not finite says where."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from dist_plm import train as training
from dist_plm.checkpoint import saver
from dist_plm.errors import RunFailure
from dist_plm.training import learner
from tests.commands import under_torchrun
from tests.end_to_end.conftest import Here, events

# A frozen rank is shown by the time-out, or by missed beats (5 s); on a busy machine twice as much. It ignores SIGTERM:
# torchrun waits 30 s more for it.
TIMEOUT_SECONDS, NAMED_SECONDS, TORCHRUN_SECONDS = 20, 50, 30


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_run_and_is_named(number: signal.Signals, tmp_path: Path, tiny: Path) -> None:
    chance = random.Random(int(number))
    victim, step = chance.randrange(1, 4), chance.randrange(2, 12)
    run = tmp_path / "run"
    command = under_torchrun(
        4, "dist_plm.train", "--config", tiny, "--run_dir", run, "--runtime.timeout_seconds", TIMEOUT_SECONDS,
        "--train.epochs", 1000, "--train.evaluate_epochs", 1000,
    )  # fmt: skip
    command.until(lambda: len(events(run, "step")) >= step)
    process, killed = command.ranks()[victim], time.monotonic()
    os.kill(process, number)
    named = f"rank {victim} died or froze at step"
    command.until(lambda: command.printed.err.count(named) >= 3)  # by the three that are left
    assert time.monotonic() - killed < NAMED_SECONDS
    outcome = command.wait()
    assert time.monotonic() - killed < NAMED_SECONDS + TORCHRUN_SECONDS
    assert outcome.status != 0
    assert [event["event"] for event in events(run)][-1] == "failure"


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, tiny: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = learner.Learner.step

    def poisoned(self, views, number, steps):
        embed = self.strategy.embed
        if number == 4:
            monkeypatch.setattr(self.strategy, "embed", lambda v: embed(v) / 0.0)
        report = step(self, views, number, steps)
        self.strategy.embed = embed
        return report

    monkeypatch.setattr(learner.Learner, "step", poisoned)
    run = tmp_path / "run"
    outcome = here(training.main, "--config", tiny, "--run_dir", run)
    assert outcome.status == 1
    assert "not finite at step 5 on rank 0" in outcome.err and "--train.non_finite skip" in outcome.err
    written = json.loads((run / "non_finite_step_00000005.json").read_text())
    plan = [event for event in events(run, "plan") if event["epoch"] == 0]
    assert len(plan) == 1 and len(written["ids"]) == 4 and all(len(group) == 5 for group in written["ids"])

    again = tmp_path / "again"
    assert here(training.main, "--config", tiny, "--run_dir", again, "--train.non_finite", "skip").status == 0
    assert len(events(again, "non_finite")) == 2  # step 4 of each of the two phases


def test_a_save_that_fails_on_leaving_is_a_failure(
    tmp_path: Path, tiny: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self):
        raise RunFailure("the checkpoint of step 1 could not be saved")

    monkeypatch.setattr(saver.Saver, "finish", failing)
    step = learner.Learner.step

    def last(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(learner.Learner, "step", last)
    outcome = here(training.main, "--config", tiny, "--run_dir", tmp_path / "run")
    assert outcome.status == 1 and "error: the checkpoint of step 1" in outcome.err, outcome.err
    assert events(tmp_path / "run")[-1]["message"] == "the checkpoint of step 1 could not be saved"

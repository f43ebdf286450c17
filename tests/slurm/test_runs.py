"""Trainings on a real Slurm: whatever stops one, it comes back by itself and ends as if nothing had."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch

from dist_plm.errors import UserError
from dist_plm.slurm import __main__ as launcher
from tests.commands import ROOT, Command
from tests.end_to_end.conftest import STEPS_PER_EPOCH, events, tensors, train
from tests.slurm.conftest import ASKED, STEPS, Slurm, job_of, last_step, requeues

# One node's share of the run must not end before the test has struck: a checkpoint at every step makes it slow.
SLOW = ("--checkpoint.every_steps", "1")
ENDLESS = ("--train.epochs", "2000", "--train.evaluate_epochs", "2000")  # Slurm takes a minute to see a time limit

pytestmark = pytest.mark.timeout(600)


def submit(run: Path, *arguments: object) -> str:
    assert launcher.main([*ASKED, "--run_dir", str(run), *map(str, arguments)]) == 0
    return job_of(run)


def assert_same_tensors(run: Path, expected: Path) -> None:
    found, wanted = tensors(run), tensors(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def assert_same_end(run: Path, expected: Path) -> None:
    """Every tensor bit for bit, each step once with the same loss, and the same evaluations."""
    assert_same_tensors(run, expected)
    for kind, keys in (("step", ("step", "loss")), ("eval", ("step", "model", "recall", "map_at_r"))):
        lines = [[[event[key] for key in keys] for event in events(each, kind)] for each in (run, expected)]
        assert lines[0] == lines[1]
    assert events(run)[-1]["event"] == "end"


def test_two_nodes_of_two_are_torchrun_with_four_ranks(slurm: Slurm, config, tmp_path, capsys):
    run, expected = tmp_path / "run", tmp_path / "expected"
    line = ("--config", config, "--train.max_steps", STEPS_PER_EPOCH + 2)
    outcome = Command(["launch/slurm.py", *ASKED, "--tasks-per-node", 2, "--run_dir", run, *line]).wait()
    assert outcome.status == 0, outcome.err
    job = job_of(run)
    assert f"job {job}" in outcome.err
    with pytest.raises(UserError, match=f"already has job {job}"):
        submit(run, *line)
    slurm.until_left(job, run)
    train(4, config, expected, *line[2:])
    assert_same_end(run, expected)
    assert requeues(run) == []
    starts = [text for path in (run / "launch").glob("*_log.out") for text in path.read_text().splitlines()]
    assert {text.partition("hostname=")[2].partition(",")[0] for text in starts if "Starting with" in text} == {
        "node1",
        "node2",
    }
    assert launcher.main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"finished, job {job} COMPLETED" in said and f"step {STEPS_PER_EPOCH + 2}" in said and "R@1" in said


def test_a_job_of_higher_priority_and_back(slurm: Slurm, config, unbroken, tmp_path):
    run = tmp_path / "run"
    job = submit(run, "--config", config, *SLOW)
    slurm.until(lambda: last_step(run) >= STEPS_PER_EPOCH + 1, run)
    nodes = slurm.tell("squeue", "-h", "-j", job, "-o", "%N")
    slurm.tell("sbatch", "-p", "high", "-w", nodes, "-N2", "--exclusive", "-o", tmp_path / "high", "--wrap", "sleep 1")
    slurm.until_left(job, run)
    assert [event["reason"] for event in requeues(run)] == ["preempted"]
    (left,), (back,) = events(run, "preempted"), events(run, "resumed")
    assert left["signal"] == signal.SIGUSR2 and STEPS_PER_EPOCH < left["step"] == back["step"] < STEPS
    assert_same_end(run, unbroken)


def test_a_dead_node_and_back_on_others(slurm: Slurm, config, unbroken, tmp_path):
    run = tmp_path / "run"
    job = submit(run, "--config", config, *SLOW)
    slurm.until(lambda: last_step(run) >= 10, run)
    victim = slurm.tell("scontrol", "show", "hostnames", slurm.tell("squeue", "-h", "-j", job, "-o", "%N")).split()[1]
    slurm.kill_node(victim)
    try:
        slurm.until(lambda: requeues(run), run)
        slurm.until_left(job, run)
    finally:
        slurm.control("start")
    assert [event["restart"] for event in requeues(run)] == [1]
    assert "node failure" in requeues(run)[0]["reason"]
    assert_same_end(run, unbroken)


def test_the_time_limit_and_back(slurm: Slurm, config, tmp_path):
    """Slurm looks at limits every 30 s, and counts in minutes: the limit of a running job is moved to be near."""
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    job = submit(run, "--config", config, *SLOW, *ENDLESS, "--notice-seconds", 90)
    slurm.until(lambda: last_step(run) >= 2, run)
    elapsed = slurm.tell("squeue", "-h", "-j", job, "-o", "%M").split(":")
    slurm.tell("scontrol", "update", f"JobId={job}", f"TimeLimit={int(elapsed[-2]) + 2}")
    slurm.until(lambda: slurm.ask("squeue", "-h", "-j", job, "-o", "%T") == "PENDING", run)
    slurm.tell("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    noticed = last_step(run)
    slurm.until(lambda: last_step(run) >= noticed + STEPS_PER_EPOCH, run)
    slurm.tell("scancel", job)
    slurm.until(lambda: not slurm.ask("squeue", "-h", "-j", job), run)
    assert [event["reason"] for event in requeues(run)] == ["time limit"]
    assert [event["step"] for event in events(run, "step")] == list(range(1, last_step(run) + 1))
    train(2, config, unbroken, *ENDLESS, "--train.max_steps", last_step(run))
    assert_same_tensors(run, unbroken)


def test_requeued_by_a_person_until_no_restart_is_left(slurm: Slurm, config, tmp_path, capsys):
    run = tmp_path / "run"
    job = submit(run, "--config", config, *SLOW, "--max-restarts", 0)
    slurm.until(lambda: last_step(run) >= 2, run)
    slurm.tell("scontrol", "requeue", job)
    slurm.until(lambda: events(run, "failure"), run)
    slurm.until_left(job, run, "FAILED")
    assert events(run, "preempted")[0]["signal"] == signal.SIGTERM  # saved before it was killed
    assert "without notice" in requeues(run)[0]["reason"]
    launcher.main(["status", str(run)])
    said = capsys.readouterr().out
    assert "FAILED" in said and "restart 1" in said and "--max-restarts is 0" in said


def test_what_comes_back_is_what_was_submitted(slurm: Slurm, config, tmp_path, monkeypatch):
    """The copy in the run directory is imported, not the checkout that the line was typed in."""
    run = tmp_path / "run"
    monkeypatch.chdir(ROOT)
    job = submit(run, "--config", config, "--train.max_steps", 1, "--sbatch", "hold")
    (code,) = (run / "launch").glob("code-*")
    (code / "dist_plm" / "__init__.py").write_text('__version__ = "as submitted"\n')
    slurm.tell("scontrol", "release", job)
    slurm.until_left(job, run)
    assert "dist_plm as submitted" in (run / "launch" / f"{job}_0_log.err").read_text()
    assert json.loads((run / "launch" / "job.json").read_text())["commit"] is not None


def test_status_shows_why_a_run_failed(slurm: Slurm, config, tmp_path, capsys):
    run = tmp_path / "run"
    job = submit(run, "--config", config, "--runtime.device", "cuda", "--setup", "export CUDA_VISIBLE_DEVICES=")
    slurm.until_left(job, run, "FAILED")
    assert launcher.main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"job {job} FAILED" in said and "this machine has no NVIDIA GPU" in said
    assert re.search(rf"{job}_[01]_log\.err", said)  # each node's first rank says why; either may be the first to fail

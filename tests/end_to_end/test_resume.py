"""A run may be stopped at any moment and resumed by the same command; its result is that of an uninterrupted run."""

import json
import math
import random
import shutil
import signal
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import lives
from dist_plm import train as training
from dist_plm.checkpoint import checkpoint
from dist_plm.distributed.preemption import PREEMPTED
from dist_plm.distributed.world import World
from tests.commands import alone, killed, on_ranks, under_torchrun
from tests.end_to_end.conftest import STEPS, STEPS_PER_EPOCH, build_demo, contents, events, tensors, timeless, train


def assert_same_end(run: Path, expected: Path) -> None:
    """Bit for bit: every tensor, every metric but times, every plan; and nothing half-written is left."""
    assert timeless(run) == timeless(expected)
    found, wanted = tensors(run), tensors(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    plans = [{path.name: path.read_bytes() for path in (each / "plans").iterdir()} for each in (run, expected)]
    assert plans[0] == plans[1]
    assert list(run.rglob("*.tmp")) == []
    assert {path.name for path in run.iterdir()} == {path.name for path in expected.iterdir()}


def last_step(run: Path) -> int:
    return max((event["step"] for event in events(run, "step")), default=0)


def is_saved(run: Path, step: int) -> bool:
    """Whether a run has taken this step, and saved a checkpoint: one is written while the next steps are taken."""
    return last_step(run) >= step and any((run / "checkpoints").glob("step_*[0-9]/checkpoint.json"))


def saved_where_it_stopped(run: Path) -> bool:
    found = checkpoint.find(run / "checkpoints", World())
    return found is not None and found.summary["position"]["step"] == last_step(run) < STEPS


def test_signals_save_and_the_same_command_resumes(tmp_path, tiny, finished):
    run = tmp_path / "run"
    command = ("dist_plm.train", "--config", tiny, "--run_dir", run)

    options = ("--signals-to-handle", "SIGTERM,SIGINT,SIGUSR2", "--shutdown-timeout", 100)
    launched = under_torchrun(2, *command, options=options)
    launched.until(lambda: any((run / "sweeps").glob("*/train/*")))
    processes = launched.processes()
    launched.send(signal.SIGUSR2)
    outcome = launched.wait()
    assert "SIGUSR2: checkpoint saved at step" in outcome.err
    if "dist_plm" in entry_points(group="torchrun.handlers").names:  # not so where it was installed long ago
        assert outcome.status == PREEMPTED and "Traceback" not in outcome.err, outcome.err
    assert saved_where_it_stopped(run) and not any(map(lives, processes))

    orphaned = under_torchrun(2, *command)
    orphaned.until(lambda: last_step(run) >= STEPS_PER_EPOCH + 1)
    processes = orphaned.processes()
    orphaned.send(signal.SIGKILL)

    ranks = on_ranks(2, *command)  # at once: it waits for the ranks that torchrun left behind
    # Both write metrics.jsonl, and a step takes some 20 ms: its length does not tell which of them took a step.
    ranks[0].until(lambda: "SIGTERM: checkpoint saved at step" in orphaned.printed.err)
    ranks[0].until(lambda: "resumed from" in ranks[0].printed.err)
    ranks[1].send(signal.SIGTERM)  # one rank is told; all leave together
    outcomes = [rank.wait() for rank in ranks]
    assert [outcome.status for outcome in outcomes] == [PREEMPTED, PREEMPTED], outcomes
    assert "resumed from" in outcomes[0].err and last_step(run) < STEPS

    train(2, tiny, run)
    assert_same_end(run, finished)
    # The run's lock is given back a second or two before Python and torch have ended.
    assert not any(map(lives, processes))


def test_killed_in_every_phase(tmp_path, tiny, finished):
    """SIGKILL to all processes, six times, each further on than the one before; then the command runs to its end."""
    run, draw = tmp_path / "run", random.Random(20)
    checkpoints, sweeps = run / "checkpoints", run / "sweeps"
    early, late = draw.randint(1, 3), STEPS_PER_EPOCH + draw.randint(2, 5)
    moments: dict[str, Callable[[], bool]] = {
        "evaluation": lambda: any(sweeps.glob("*/test/*")),
        "warm_up": lambda: last_step(run) >= early,
        "checkpoint": lambda: any(checkpoints.glob("*.tmp")),
        "sweep": lambda: any(sweeps.glob("*/train/*")),
        "plm": lambda: last_step(run) >= late,
        "last evaluation": lambda: (checkpoints / f"step_{STEPS:08d}").exists(),
    }
    for happened in moments.values():
        ranks = on_ranks(2, "dist_plm.train", "--config", tiny, "--run_dir", run)
        killed(ranks, happened, draw.uniform(0, 0.02))
        assert not events(run, "end")
    train(2, tiny, run)
    assert_same_end(run, finished)


@pytest.fixture(scope="module")
def half(tmp_path_factory, tiny) -> Path:
    """A run in float64 that two ranks left in the middle of an epoch."""
    run = tmp_path_factory.mktemp("half") / "run"
    train(2, tiny, run, "--train.precision", "fp64", "--train.max_steps", STEPS_PER_EPOCH + 3)
    return run


@pytest.mark.parametrize("ranks", [1, 3])
def test_another_number_of_ranks_goes_on(tmp_path, tiny, half, exact, ranks):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    train(ranks, tiny, run, "--train.precision", "fp64")
    sha256s = [[event["sha256"] for event in events(each, "plan")] for each in (run, exact)]
    assert sha256s[0] == sha256s[1]
    found, expected = tensors(run), tensors(exact)
    for name, value in expected.items():
        if not name.startswith("optimiser."):
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11 * float(value.norm()), msg=name)


def test_a_broken_checkpoint_is_named_and_passed_over(tmp_path, tiny, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoints" / f"step_{STEPS:08d}"
    before = sorted((run / "checkpoints").iterdir())[-2]
    victim = next(newest.glob("*.safetensors"))
    whole, middle = victim.read_bytes(), victim.stat().st_size // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for broken in (None, whole[:-1], flipped):
        victim.unlink(missing_ok=True)
        if broken is not None:
            victim.write_bytes(broken)
        found = checkpoint.find(run / "checkpoints", World())
        assert found is not None and found.path == before
        assert len(found.rejected) == 1 and str(newest) in found.rejected[0] and victim.name in found.rejected[0]
    said = train(2, tiny, run).err
    assert str(newest) in said and victim.name in said and f"resumed from {before}" in said
    assert_same_end(run, finished)


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, tiny, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    outcome = alone("dist_plm.train", "--config", tiny, "--run_dir", run).wait()
    assert outcome.status == 0 and f"complete at step {STEPS}" in outcome.err
    assert contents(run) == before


def test_a_run_directory_of_another_experiment_is_refused(tmp_path, tiny, finished, here):
    other = build_demo(tmp_path / "other", seed=1)
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    for arguments, named in (
        (("--manifold.k", 9), "manifold.k: 10 there, 9 here"),
        (("--optimiser.lr", 1e-3, "--seed", 5), "seed: 0 there, 5 here"),
        (("--model.dim", 8), "--force_resume"),
        (("--data.shards", other), str(other)),
        # What was learnt can't go on at all:
        (("--force_resume", "--data.shards", other), str(other)),
        (("--force_resume", "--model.dim", 8, "--train.epochs", 3), "another --run_dir to start a new run"),
        (("--force_resume", "--warm_up.epochs", 0), "warm_up.epochs"),
    ):
        outcome = here(training.main, "--config", tiny, "--run_dir", run, *arguments)
        assert outcome.status == 2 and named in outcome.err, outcome.err
        assert contents(run) == before, arguments


def test_forced_to_other_settings_it_says_so(tmp_path, tiny, finished, here):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    changed = ("--train.epochs", 3, "--optimiser.lr", 1e-5)
    outcome = here(training.main, "--config", tiny, "--run_dir", run, "--force_resume", *changed)
    assert outcome.status == 0, outcome.err
    assert last_step(run) == STEPS + STEPS_PER_EPOCH
    assert [event["changed"] for event in events(run, "forced")] == [
        {"optimiser.lr": [5e-4, 1e-5], "train.epochs": [2, 3]}
    ]
    assert (run / "checkpoints" / "best").is_symlink(), "a folder in the copy, and marked anew"
    # Half a cosine over the three epochs of the phase, at its last step.
    angle = math.pi * (3 * STEPS_PER_EPOCH - 1) / (3 * STEPS_PER_EPOCH)
    assert events(run, "step")[-1]["lr"] == pytest.approx(1e-5 * (1 + math.cos(angle)) / 2)
    assert here(training.main, "--config", tiny, "--run_dir", run, *changed).status == 0  # now its own
    fewer = here(training.main, "--config", tiny, "--run_dir", run, "--force_resume", "--train.epochs", 1)
    assert fewer.status == 0 and "is complete" in fewer.err, fewer.err


def test_what_is_kept(tmp_path, tiny, here):
    """One checkpoint beside those of every second epoch and the best; each goes on."""
    run, keep = tmp_path / "run", ("--checkpoint.keep", 1, "--checkpoint.keep_every_epochs", 2)
    arguments = ("--config", tiny, "--run_dir", run, *keep, "--train.evaluate_epochs", 1, "--train.epochs", 3)
    assert here(training.main, *arguments).status == 0
    recall = {event["step"]: event["recall"]["1"] for event in events(run, "eval") if event["model"] == "teacher"}
    best = max((step for step in recall if step), key=lambda step: (recall[step], step))
    kept = {f"step_{step:08d}" for step in (best, 2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH)}
    assert {path.name for path in (run / "checkpoints").iterdir()} == kept | {"best"}
    assert (run / "checkpoints" / "best").resolve().name == f"step_{best:08d}"


def test_a_checkpoint_says_what_it_is(finished):
    found = checkpoint.find(finished / "checkpoints", World())
    assert found is not None
    assert found.summary["step"] == STEPS and found.summary["world_size"] == 2
    assert json.loads((found.path / "checkpoint.json").read_text()) == found.summary


def test_another_criterion_of_the_best_starts_anew_and_so_does_the_record_of_the_start(tmp_path, tiny, here):
    """A recall of .3 is no mark for view recall, of which .1 is a good one; hits of a start that was never measured."""
    run, stale = tmp_path / "run", tmp_path / "run" / "start" / "hits_raw_pixels.npy"
    stale.parent.mkdir(parents=True)
    np.save(stale, np.ones(100, np.int8))
    line = ("--config", tiny, "--run_dir", run, "--warm_up.epochs", 0, "--train.evaluate_epochs", 1)
    for steps, criterion in ((STEPS_PER_EPOCH + 3, "recall"), (2 * STEPS_PER_EPOCH, "label_free")):
        given = ("--train.max_steps", steps, "--checkpoint.best_by", criterion)
        outcome = here(training.main, *line, *given)
        assert outcome.status == 0 and "raw pixels" not in outcome.out
    assert (run / "checkpoints" / "best").readlink().name == f"step_{2 * STEPS_PER_EPOCH:08d}"
    assert not stale.exists()
    recall = [event["recall"]["1"] for event in events(run, "eval") if event["step"] == STEPS_PER_EPOCH]
    views = [event["values"] for event in events(run, "label_free") if event["step"] == 2 * STEPS_PER_EPOCH]
    assert min(recall) > max(each["view_recall"] for each in views), "so it would not be by the first's mark"

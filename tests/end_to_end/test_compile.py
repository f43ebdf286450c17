"""Compiled kernels: the loss is that of the others, and a resumed run computes what the unbroken one does.

On one rank, since they take a minute to make: tests/distributed/test_exact_gradients.py has two.
"""

import shutil
from pathlib import Path

import pytest

from tests.commands import killed, on_ranks
from tests.end_to_end.conftest import STEPS_PER_EPOCH, events, train
from tests.end_to_end.test_resume import assert_same_end, is_saved

needs_a_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++, with which kernels are made")


@needs_a_compiler
def test_trains_and_resumes(tmp_path: Path, tiny: Path, finished: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    told = train(1, tiny, whole, "--runtime.compile", True).err
    assert "kernels: compiled" in told and "recompile" not in told
    losses = [[event["loss"] for event in events(run, "step")] for run in (whole, finished)]
    assert losses[0] != losses[1], "nothing was compiled"
    # Step by step rounding grows: 1e-7 at first, by Adam's lr g / |g| 1e-3 after a phase.
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)

    ranks = on_ranks(1, "dist_plm.train", "--config", tiny, "--run_dir", broken, "--runtime.compile", True)
    killed(ranks, lambda: is_saved(broken, STEPS_PER_EPOCH + 3))
    train(1, tiny, broken, "--runtime.compile", True)
    assert events(broken, "resumed")
    assert_same_end(broken, whole)


def test_refused_without_a_compiler(mistaken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    mistaken("'no-such-compiler' is not on the PATH", "--runtime.compile", "true")


@pytest.mark.parametrize("strategy", ["reproducible", "deepspeed"])
def test_refused_where_it_has_no_effect(mistaken, strategy: str) -> None:
    mistaken(f"not for {strategy}", "--runtime.compile", "true", "--runtime.strategy", strategy)

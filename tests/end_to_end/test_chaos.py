"""The short form of benchmarks/chaos.py: SIGKILL to all ranks, one, or the launcher, and an end as if nothing was."""

import pytest

from benchmarks.chaos import Chaos


@pytest.mark.parametrize(("world", "kills"), [("constant", 5), ("mixed", 4)])
def test_killed_runs_end_as_an_unbroken_one(tmp_path, world, kills):
    chaos = Chaos(tmp_path, world, seed=kills)
    chaos.break_runs(kills)
    assert chaos.kills.total() == kills and chaos.compared >= 1 and chaos.verified >= 1, chaos.report()

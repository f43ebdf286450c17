"""Under torchrun a person reads the ranks' last line, not a traceback of torchrun, and gets the ranks' status."""

import os
import signal
from importlib.metadata import entry_points

import pytest

from tests.commands import under_torchrun
from tests.end_to_end.conftest import refused

pytestmark = pytest.mark.skipif(
    "dist_plm" not in entry_points(group="torchrun.handlers").names,
    reason="dist_plm was installed before it had an entry point for torchrun: pip install -e . again",
)


def test_a_mistake_is_all_that_is_printed():
    refused(under_torchrun(2, "dist_plm.train", "--manifold.kk", 3).wait(), "did you mean manifold.k?")


def test_a_rank_that_is_killed_while_it_starts_ends_the_others(tmp_path, tiny):
    command = under_torchrun(2, "dist_plm.train", "--config", tiny, "--run_dir", tmp_path / "run")
    command.until(lambda: len(command.ranks()) == 2)
    os.kill(command.ranks()[1], signal.SIGKILL)
    outcome = command.wait()
    assert outcome.status == 1 and "Traceback" not in outcome.err, outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: rank 1 was killed by SIGKILL"), outcome.err
    assert not (tmp_path / "run").exists()

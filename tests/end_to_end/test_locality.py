"""Groups placed by their shards: the same batches, plans and losses as without, up to the order of sums."""

import pytest

from dist_plm import train as training
from tests.commands import on_ranks
from tests.end_to_end.conftest import events, refused


def test_two_nodes_train_what_one_rank_trains(tmp_path, tiny, exact):
    run = tmp_path / "run"
    line = ("--config", tiny, "--run_dir", run, "--train.precision", "fp64", "--batch.locality", "true")
    ranks = on_ranks(2, "dist_plm.train", *line, nodes=2)
    assert [rank.wait().status for rank in ranks] == [0, 0], [str(rank.printed) for rank in ranks]
    assert [event["sha256"] for event in events(run, "plan")] == [event["sha256"] for event in events(exact, "plan")]
    found, wanted = ([event["loss"] for event in events(each, "step")] for each in (run, exact))
    assert found == pytest.approx(wanted, rel=1e-9) and found != wanted


def test_what_locality_would_change_is_refused(tmp_path, tiny, here):
    line = ("--config", tiny, "--run_dir", tmp_path / "run", "--batch.locality", "true")
    refused(here(training.main, *line, "--runtime.strategy", "reproducible"), "batch.locality")
    refused(here(training.main, *line, "--train.method", "dada"), "batch.locality changes dada's random numbers")

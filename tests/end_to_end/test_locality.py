"""Groups placed by their shards: the same batches, plans and losses as without, up to the order of sums."""

import socket

import pytest

from dist_plm import train as training
from tests.commands import Rank
from tests.end_to_end.conftest import events, refused


def test_two_nodes_train_what_one_rank_trains(tmp_path, tiny, exact):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    run = tmp_path / "run"
    line = ("--config", tiny, "--run_dir", run, "--train.precision", "fp64", "--batch.locality", "true")
    ranks = [Rank("dist_plm.train", line, {"RANK": str(r), "MASTER_PORT": port, **shared}) for r in range(2)]
    assert [rank.wait().status for rank in ranks] == [0, 0], [str(rank.printed) for rank in ranks]
    assert [event["sha256"] for event in events(run, "plan")] == [event["sha256"] for event in events(exact, "plan")]
    found, wanted = ([event["loss"] for event in events(each, "step")] for each in (run, exact))
    assert found == pytest.approx(wanted, rel=1e-9) and found != wanted


def test_what_locality_would_change_is_refused(tmp_path, tiny, here):
    line = ("--config", tiny, "--run_dir", tmp_path / "run", "--batch.locality", "true")
    refused(here(training.main, *line, "--runtime.strategy", "reproducible"), "batch.locality")
    refused(here(training.main, *line, "--train.method", "dada"), "batch.locality would change what dada draws")

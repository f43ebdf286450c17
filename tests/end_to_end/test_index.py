"""A run whose index is cut among ranks, or approximate: the same plans where it must be, and what it says of itself."""

import numpy as np
import pytest

from dist_plm import train as training
from tests.end_to_end.conftest import events, on_ranks, train

BYTES = 100 * (4 * 16 + 4 + 4 * 16)  # float32 copy, norm and rows on disk of each image
STEPS = ["--train.max_steps", 11, "--train.precision", "fp64", "--evaluation.nmi", "false"]


def plans(run):
    return [event["sha256"] for event in events(run, "plan")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    run = tmp_path_factory.mktemp("index") / "whole"
    train(1, tiny, run, *STEPS)
    return run


def test_a_cut_index_makes_the_plans_of_a_whole_one(tmp_path, tiny, whole):
    train(2, tiny, tmp_path / "cut", *STEPS, "--index.memory_gb", 0.75e-9 * BYTES)
    first = events(whole, "index")[0]
    assert first | {"index": "Flat", "sharded": False, "bytes": BYTES} == first and "recall" not in first
    cut = events(tmp_path / "cut", "index")
    assert [(each["sharded"], each["bytes"]) for each in cut] == 2 * [(True, BYTES // 2)]
    assert plans(tmp_path / "cut") == plans(whole)


def test_all_cells_of_an_approximate_index_make_the_plans_of_an_exact_one(tmp_path, tiny, whole):
    index = ["--index.factory", "IVF4,SQ8", "--index.nprobe", 4, "--index.recall_floor", 1]
    outcome = train(2, tiny, tmp_path / "cells", *STEPS, *index, "--index.recall_sample", 100)
    found = events(tmp_path / "cells", "index")
    assert [each["recall"] for each in found] == 2 * [1.0]
    assert all((each["nprobe"], each["k"], each["sample"]) == (4, 4, 100) for each in found)
    assert "IVF4,SQ8 over 100 x 16 in fp32, replicated" in outcome.err
    assert plans(tmp_path / "cells") == plans(whole)


def test_recall_that_can_not_be_had_stops_the_run(tmp_path, tiny):
    few = ["--index.factory", "IVF16,Flat", "--index.nprobe", 1, "--index.nprobe_max", 2]
    arguments = [*few, "--index.recall_floor", 1]
    ranks = on_ranks(2, "dist_plm.train", "--config", tiny, "--run_dir", tmp_path / "low", *STEPS, *arguments)
    outcomes = [rank.wait() for rank in ranks]
    assert [outcome.status for outcome in outcomes] == [1, 1]
    assert "finds 0." in outcomes[0].err and "index.recall_floor" in outcomes[0].err
    last = events(tmp_path / "low", "index")[-1]
    assert last["recall"] < 1 and last["nprobe"] == 2
    assert events(tmp_path / "low")[-1]["event"] == "failure"


def test_half_precision_halves_what_a_sweep_writes(tmp_path, tiny, whole):
    train(1, tiny, tmp_path / "half", *STEPS, "--index.precision", "fp16")
    sizes = [
        sum(file.stat().st_size - 128 for file in run.glob("sweeps/*/train/*.npy"))
        for run in (whole, tmp_path / "half")
    ]
    assert sizes[0] == 2 * sizes[1] == 100 * 16 * 4


def test_the_estimate_says_where_the_index_lies_and_what_it_costs(here, tiny, tmp_path):
    arguments = ["--config", tiny, "--run_dir", tmp_path / "none", "--plan"]
    exact = " ".join(
        here(training.main, *arguments, "--index.memory_gb", 0.75e-9 * BYTES, WORLD_SIZE="2", COLUMNS="250").out.split()
    )
    assert "sharded over the ranks" in exact and "20 seeds: about searching" in exact and "building" not in exact
    cells = " ".join(here(training.main, *arguments, "--index.factory", "IVF4,SQ8", COLUMNS="250").out.split())
    assert "IVF4,SQ8 over 100" in cells and "replicated" in cells and "measuring recall" in cells
    assert not (tmp_path / "none").exists()


def test_a_refresh_comes_after_a_few_steps(here, tiny, tmp_path):
    """Epochs of 2 of the 5 steps: swept anew at each, and the second goes on with other seeds than the first."""
    run = tmp_path / "run"
    short = ("--batch.epoch_steps", 2, "--warm_up.epochs", 0, "--train.epochs", 4, "--train.evaluate_epochs", 4)
    assert here(training.main, "--config", tiny, "--run_dir", run, *short).status == 0
    assert [event["step"] for event in events(run, "sweep")] == [0, 2, 4, 6]
    plans = [np.load(path) for path in sorted((run / "plans").iterdir())]
    assert [plan.shape for plan in plans] == [(2, 4, 5)] * 4
    assert not np.isin(plans[0][:, :, 0], plans[1][:, :, 0]).any()


def test_batches_of_single_images_need_no_sweep(here, tiny, tmp_path):
    """Nor an index. Proxies that start on the data need one sweep, before the first step."""
    single = ("--config", tiny, "--batch.groups", 20, "--batch.group_size", 1, "--warm_up.epochs", 0,
              "--train.epochs", 2, "--train.evaluate_epochs", 2)  # fmt: skip
    for start, swept in (("normal", []), ("data", [0])):
        run = tmp_path / start
        outcome = here(training.main, *single, "--run_dir", run, "--proxies.start", start)
        assert outcome.status == 0, outcome.err
        assert [event["step"] for event in events(run, "sweep")] == swept and not events(run, "index")
        assert not list((run / "sweeps").glob("*/train")) and len(list((run / "sweeps").iterdir())) == 2, "the judged"
        for path in (run / "plans").iterdir():
            assert sorted(np.load(path).ravel()) == list(range(100)), "every image once an epoch"
    estimate = here(training.main, *single, "--run_dir", tmp_path / "none", "--plan", COLUMNS="250").out
    assert "0.0 MB in order (embedding)" in estimate and "a refresh searches" not in estimate

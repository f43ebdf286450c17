"""The verdict of a run: by labels and without, on any number of ranks, after a kill, and what it chooses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dist_plm import train as training
from dist_plm.cli import load_config
from dist_plm.data.store import Store
from dist_plm.data.views import train_view
from dist_plm.encoders.networks import load_network, locate
from dist_plm.evaluation.verdict import read_verdicts
from dist_plm.training.held_out import NEVER
from tests.end_to_end.conftest import events

SHORT = ("--warm_up.epochs", 0, "--train.epochs", 2, "--train.evaluate_epochs", 1)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unlabelled") / "run"


def test_without_labels_the_numbers_are_those_of_the_networks(here, tiny, demo, unlabelled):
    """The recall of the other view, found again from the checkpoint by brute force."""
    outcome = here(training.main, "--config", tiny, "--run_dir", unlabelled, "--data.test_split", "", *SHORT)
    assert outcome.status == 0, outcome.err
    assert "(trained on)" in outcome.err and "without labels: other view found" in outcome.err
    last = {event["model"]: event for event in events(unlabelled, "label_free")}
    ids = np.load(unlabelled / "start" / "held_out_ids.npy")
    config, trained = load_config(unlabelled / "config.yaml"), locate(unlabelled)
    for model, event in last.items():
        network = load_network(trained, model, torch.device("cpu"))
        with Store(demo, "train") as store:
            draw = {"config": config.views, "seed": config.seed, "epoch": NEVER}
            views = [[train_view(store.read_image(int(id)), **draw, sample=int(id), view=view) for id in ids]
                     for view in range(2)]  # fmt: skip
        first, second = (network.embed(torch.from_numpy(np.stack(each))).double() for each in views)
        found = float((torch.cdist(first, second).argmin(1) == torch.arange(len(ids))).double().mean())
        assert event["values"]["view_recall"] == pytest.approx(found, abs=1.5 / len(ids))
        assert event["images"] == len(ids) == 140 and event["split"] == "train"


def test_without_labels_the_best_checkpoint_is_that_with_the_best_found_views(unlabelled):
    scores = {
        event["step"]: event["values"]["view_recall"] + event["values"]["strong_view_recall"]
        for event in events(unlabelled, "label_free")
        if event["model"] == "teacher"
    }
    best = max(sorted(scores), key=lambda step: (scores[step], step))
    assert (unlabelled / "checkpoints" / "best").resolve().name == f"step_{best:08d}"
    assert {each.basis for each in read_verdicts(unlabelled).values()} == {"views"}


def test_two_ranks_and_one_compare_the_same_images(finished, exact):
    """Before training, in float32 on two ranks and in float64 on one."""
    starts = [events(run, "label_free")[0] for run in (finished, exact)]
    assert np.array_equal(*(np.load(run / "start" / "held_out_ids.npy") for run in (finished, exact)))
    for name, value in starts[0]["values"].items():
        assert value == pytest.approx(starts[1]["values"][name], rel=0.05, abs=0.03)


def test_with_labels_the_verdict_is_that_of_the_recalls_that_were_written(finished):
    judged = {(event["step"], event["model"]): event for event in events(finished, "eval")}
    hits = np.load(finished / "start" / "hits_start.npy")
    assert hits[hits >= 0].mean() == pytest.approx(judged[0, "student"]["recall"]["1"])
    for model, verdict in read_verdicts(finished).items():
        event = judged[verdict.step, model]
        points = 100 * (event["recall"]["1"] - judged[0, "student"]["recall"]["1"])
        assert verdict.basis == "labels" and f"R@1 {points:+.1f} points" in verdict.text
        assert event["interval"]["low"] <= event["recall"]["1"] <= event["interval"]["high"]

"""The verdict of a run: by labels and without, on any number of ranks, after a kill, and what it chooses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_plm import evaluate as evaluation
from dist_plm.cli import load_config
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view, train_view
from dist_plm.encoders.networks import load_network, locate
from dist_plm.evaluation.verdict import read_verdicts
from dist_plm.training.held_out import NEVER
from tests.end_to_end.conftest import events, refused, train

SHORT = ("--warm_up.epochs", 0, "--train.epochs", 2, "--train.evaluate_epochs", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, str]:
    """A run without labels, and what it printed."""
    run = tmp_path_factory.mktemp("unlabelled") / "run"
    return run, train(1, tiny, run, "--data.test_split", "", *SHORT).err


@pytest.fixture(scope="module")
def unlabelled(trained: tuple[Path, str]) -> Path:
    return trained[0]


def test_without_labels_the_numbers_are_those_of_the_networks(demo, trained):
    """The recall of the other view, found again from the checkpoint by brute force."""
    unlabelled, printed = trained
    assert "(trained on)" in printed and "without labels: view recall" in printed
    last = {event["model"]: event for event in events(unlabelled, "label_free")}
    ids = np.load(unlabelled / "start" / "held_out_ids.npy")
    config, located = load_config(unlabelled / "config.yaml"), locate(unlabelled)
    for model, event in last.items():
        network = load_network(located, model, torch.device("cpu"))
        with Store(demo, "train") as store:
            draw = {"config": config.views, "seed": config.seed, "epoch": NEVER}
            views = [[train_view(store.read_image(int(id)), **draw, sample=int(id), view=view) for id in ids]
                     for view in range(2)]  # fmt: skip
        first, second = (network.embed(torch.from_numpy(np.stack(each))).double() for each in views)
        found = float((torch.cdist(first, second).argmin(1) == torch.arange(len(ids))).double().mean())
        assert event["values"]["view_recall"] == pytest.approx(found, abs=1.5 / len(ids))
        assert event["images"] == len(ids) == 100 and event["split"] == "train"


def test_without_labels_the_best_checkpoint_has_the_highest_view_recall(unlabelled):
    scores = {
        event["step"]: event["values"]["view_recall"] + event["values"]["strong_view_recall"]
        for event in events(unlabelled, "label_free")
        if event["model"] == "teacher"
    }
    best = max(sorted(scores), key=lambda step: (scores[step], step))
    assert (unlabelled / "checkpoints" / "best").resolve().name == f"step_{best:08d}"
    assert {each.basis for each in read_verdicts(unlabelled).values()} == {"views"}


def kinds(demo: Path) -> dict[str, int]:
    """The class of each training image, by its path."""
    with Store(demo, "train") as store:
        return {store.about(id)["source"]: int(label) for id, label in enumerate(store.labels)}


def test_the_list_of_held_out_images_filled_in_gives_the_true_recall(here, demo, unlabelled, tmp_path):
    """Against the training images found among each other by brute force, and the start's embeddings on disk."""
    labels = kinds(demo)
    header, *lines = (unlabelled / "start/held_out.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join([header, *(f"{line}{labels[line[:-1]]}" for line in lines)]))
    outcome = here(evaluation.main, "--checkpoint", unlabelled, "--labels", tmp_path / "labels.csv")
    assert outcome.status == 0, outcome
    found = {result["model"]: result for result in map(json.loads, outcome.out.splitlines())}
    truth = torch.tensor([labels[line[:-1]] for line in lines])

    def recall(z: torch.Tensor) -> torch.Tensor:
        return (truth[torch.cdist(z.double(), z.double()).fill_diagonal_(9).argmin(1)] == truth).double()

    before = recall(torch.from_numpy(np.load(unlabelled / "start/held_out.npy")[0]))
    config = load_config(unlabelled / "config.yaml")
    for model in ("student", "teacher"):
        network = load_network(locate(unlabelled), model, torch.device("cpu"))
        with Store(demo, "train") as store:
            views = [eval_view(store.read_image(id), config=config.views) for id in range(len(truth))]
        now = recall(network.embed(torch.from_numpy(np.stack(views))))
        assert found[model]["recall"]["1"] == pytest.approx(float(now.mean()), abs=1.5 / 100)
        over = found[model]["over_start"]
        assert over["value"] == pytest.approx(float((now - before).mean()), abs=3 / 100)
        assert over["low"] <= over["value"] <= over["high"] and over["images"] == found[model]["queries"] == 100
        value, low = 100 * found[model]["recall"]["1"], 100 * found[model]["interval"]["low"]
        assert f"{model}: R@1 {value:.1f} % (95 % {low:.1f} to" in outcome.err
        assert found[model]["text"] in outcome.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "can't be read"),
        ("a.png,1\n", "path,label"),
        ("path,label\n" + "nowhere.png,1\n" * 20, "nowhere.png"),
        ("path,label\n" + "".join(f"{{{number}}},{number}\n" for number in range(20)), "no label of --labels has two"),
    ],
    ids=["missing", "no header", "unknown image", "each alone"],
)
def test_wrong_labels_are_one_line(here, demo, unlabelled, tmp_path, text, named):
    path = tmp_path / "labels.csv"
    if text is not None:
        path.write_text(text.format(*kinds(demo)))
    refused(here(evaluation.main, "--checkpoint", unlabelled, "--labels", path), named)


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

"""Every method trains on two ranks, and a run that was stopped in the middle of an epoch ends like one that was not."""

from pathlib import Path

import numpy as np
import pytest

from tests.commands import killed, on_ranks
from tests.end_to_end.conftest import STEPS_PER_EPOCH, events, tensors
from tests.end_to_end.test_resume import assert_same_end, is_saved

CLUSTERS = ["pseudo_labels", "--pseudo_labels.clusters", 9, "--batch.refresh_epochs", 2]
METHODS = {
    "gallery": ["plm", "--manifold.scope", "gallery", "--manifold.k", 4, "--manifold.project", True,
                "--manifold.centre", "mean", "--batch.refresh_epochs", 2],
    "neighbour_contrast": ["neighbour_contrast", "--manifold.k", 5],
    # R@1 rises by .22 and .24 (fp32, fp64); with seed 0 by .04 and .09, so that the machine's rounding would decide.
    "stml": ["stml", "--model.wide_dim", 24, "--seed", 2],
    "proxy_anchor": ["proxy_anchor"],
    "k_means": CLUSTERS,
    "ward": [*CLUSTERS, "--pseudo_labels.clustering", "ward"],
    "random_walk": [*CLUSTERS, "--pseudo_labels.clustering", "random_walk"],
    "dada": ["dada", "--dada.domain_hidden", 16, "--dada.category_hidden", "[16,8]", "--dada.proxy_anchor", 0.1,
             "--optimiser.schedule", "steps", "--optimiser.milestones", "[2]", "--optimiser.head_only_epochs", 1],
}  # fmt: skip
EPOCHS = 3


def command(tiny: Path, run: Path, method: str) -> list[object]:
    short = ["--warm_up.epochs", 0, "--train.epochs", EPOCHS, "--evaluation.nmi", False, "--optimiser.lr", 2e-3]
    return ["dist_plm.train", "--config", tiny, "--run_dir", run, *short, "--train.method", *METHODS[method]]


def done(*arguments: object) -> None:
    for outcome in [rank.wait() for rank in on_ranks(2, *arguments)]:
        assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_resumes(method: str, tmp_path: Path, tiny: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done(*command(tiny, whole, method))
    assert len(events(whole, "step")) == EPOCHS * STEPS_PER_EPOCH
    judged = [event["recall"]["1"] for event in events(whole, "eval") if event["model"] == "student"]
    assert judged[-1] > judged[0] + 0.05, "STML's loss follows its own teacher and need not fall, but recall rises"

    # Between two refreshes of the pseudo-labels, after the warm-up of the discriminators.
    killed(on_ranks(2, *command(tiny, broken, method)), lambda: is_saved(broken, STEPS_PER_EPOCH + 3))
    assert not events(broken, "end")
    done(*command(tiny, broken, method))
    assert events(broken, "resumed")
    assert_same_end(broken, whole)
    if METHODS[method][0] == "pseudo_labels":
        # A walk has as many clusters as it finds anchors: untrained embeddings are one heap.
        assert_labels_are_made_up_at_a_refresh_alone(whole, {9} if method != "random_walk" else set(range(1, 10)))


def assert_labels_are_made_up_at_a_refresh_alone(run: Path, clusters: set[int]) -> None:
    made = events(run, "clusters")
    assert [event["epoch"] for event in made] == [0, 2]
    for epoch, event in enumerate([made[0], made[0], made[1]]):
        labels = np.load(run / "plans" / f"labels_{event['sha256'][:16]}.npy")
        assert len(np.unique(labels[labels >= 0])) == event["clusters"] and event["clusters"] in clusters
        groups = labels[np.load(run / "plans" / f"epoch_{epoch:05d}.npy")]
        assert (groups == groups[:, :, :1]).all() and groups.min() >= 0, "a group holds images of one cluster"
    moments = tensors(run)["optimiser.method.proxies.raw.step"]
    assert float(moments) == STEPS_PER_EPOCH, "new proxies begin with new moments"

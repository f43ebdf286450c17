"""Quality of supervision against loops and NumPy on the whole matrix of pairs."""

import math
import sys

import numpy as np
import pytest
import torch

from dist_plm.config import Config, ManifoldConfig
from dist_plm.errors import UserError
from dist_plm.evaluation.pair_quality import Attraction, BatchJudge, PairMoments, Purity, usage
from dist_plm.evaluation.published import published, supervision
from dist_plm.index.flat import nearest
from dist_plm.supervision import __main__ as command
from dist_plm.supervision.display import show
from dist_plm.supervision.estimates import Clusters, build_estimate
from dist_plm.supervision.table2 import judge, judge_batches


def cloud(n=90, dim=6, classes=5, noise=0.5, seed=0):
    """Points on the sphere around a centre a class; the last three are unlabelled."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = draw.standard_normal((classes, dim))[labels] + noise * draw.standard_normal((n, dim))
    labels[-3:] = -1
    return torch.tensor(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=torch.float32), torch.tensor(labels)


def order_of(x):
    return torch.from_numpy(nearest(x, x, len(x) - 1, exclude=torch.arange(len(x)))[0])


def majority(labels):
    """Share of the most frequent label among those that are known."""
    known = [label for label in labels.tolist() if label >= 0]
    return max(known.count(label) for label in known) / len(known)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_blocks_add_up_to_numpys_correlation(offset):
    draw = np.random.default_rng(1)
    x = draw.standard_normal(1000) + offset
    y = 0.3 * (x - offset) + draw.standard_normal(1000)
    total = PairMoments()
    for part in np.array_split(np.arange(1000), [1, 1, 17, 600]):  # an empty block too
        total += PairMoments.of(torch.tensor(x[part]), torch.tensor(y[part]))
    assert total.count == 1000
    assert total.correlation == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    assert math.isnan(PairMoments.of(torch.ones(4), torch.arange(4)).correlation)


def test_purity_by_hand():
    labels = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 2], [3, 9, 9, 9], [-1, 0, 0, 0], [0, -1, 0, 1]])
    members = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    # sets {0 0 1}, {1 2 2 2}, {3}, an unlabelled point, {0 0}
    means = Purity.of(labels, members).means
    assert means["purity"] == pytest.approx((2 / 3 + 3 / 4 + 1 + 1) / 4)
    assert means["same_label"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert means["size"] == pytest.approx((3 + 4 + 1 + 2) / 4)


def test_attraction_and_usage_by_hand():
    target, distance = torch.tensor([[0.0, 0.5, 0.9]]), torch.tensor([[0.0, 0.6, 0.8]])
    found = Attraction.of(target, distance, torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]]))
    assert found == Attraction(1, 1, 1, 0)
    assert (found + found).shares == {"positives_attracted": 1.0, "negatives_attracted": 0.0}
    assert usage(torch.tensor([0, 0, 2, 2]), 4) == pytest.approx({"used": 0.5, "effective": 2.0})


@pytest.mark.parametrize("name", ["distance", "k-means", "hierarchical", "random walk", "plm", "projected"])
def test_a_row_of_the_table_is_that_of_the_whole_matrix(name):
    x, labels = cloud()
    config = Config(manifold=ManifoldConfig(dim=2, k=7))
    estimate = build_estimate(name, x, 5, config)
    order = order_of(x)
    result = judge(estimate, x, labels, order, delta=2.0, progress=lambda _: None).result()
    s, sets = estimate.view(torch.arange(len(x)))
    pairs = [(i, j) for i in range(87) for j in range(87) if i != j]
    truth = [float(labels[i] == labels[j]) for i, j in pairs]
    assert result["correlation"] == pytest.approx(np.corrcoef([s[i, j] for i, j in pairs], truth)[0, 1], abs=1e-6)
    assert result["purity"] == pytest.approx(np.mean([majority(labels[sets[i]]) for i in range(87)]), abs=1e-9)
    control = [majority(labels[[i, *order[i][: len(sets[i]) - 1].tolist()]]) for i in range(87)]
    assert result["purity_control"] == pytest.approx(np.mean(control), abs=1e-9)
    assert sum(result["sizes"].values()) == 90
    precision = []
    for i in range(87):
        ranked = sorted((j for j in range(90) if j != i), key=lambda j: (-float(s[i, j]), order[i].tolist().index(j)))
        relevant = [bool(labels[j] == labels[i]) for j in ranked]
        count = sum(relevant)
        precision.append(sum(sum(relevant[: r + 1]) / (r + 1) for r in range(count) if relevant[r]) / count)
    assert result["map_at_r"] == pytest.approx(np.mean(precision), abs=1e-9)
    if name in ("plm", "projected"):
        d = torch.cdist(x, x)
        drawn = [float(2 * (1 - s[i, j]) < d[i, j]) for i, j in pairs if labels[i] == labels[j]]
        assert result["positives_attracted"] == pytest.approx(np.mean(drawn), abs=1e-3)


def test_batches_are_worlds_of_their_own_for_plm_and_pieces_of_the_whole_for_clusters():
    x, labels = cloud()
    batches = torch.tensor([[0, 5, 10, 1, 6, 11, 2, 7], [3, 8, 13, 4, 9, 14, 20, 21]])
    config = Config(manifold=ManifoldConfig(dim=2, k=5))
    plm = build_estimate("plm", x, 5, config)
    alone = build_estimate("plm", x[batches[0]], 5, config)
    assert torch.equal(plm.within(batches[0]).view(torch.arange(8)).similarity, alone.view(torch.arange(8)).similarity)
    clusters = Clusters([labels.clamp(min=0).numpy()])
    total = judge_batches(clusters, x, labels, batches, delta=2.0, progress=lambda _: None)
    assert total.moments.correlation == pytest.approx(1.0)
    assert total.moments.count == 2 * 8 * 7
    assert total.purity.means["purity"] == 1.0


def test_a_table_of_batches_without_positive_pairs_is_shown(capsys):
    """With few labels sampled batches may hold no two images of a class."""
    x, labels = cloud()
    estimate, nothing = build_estimate("plm", x, 5, Config(manifold=ManifoldConfig(dim=2, k=5))), lambda _: None
    whole = judge(estimate, x, labels, order_of(x), delta=2.0, progress=nothing)
    batch = torch.tensor([[0, 1, 2, 3, 4, 87, 88]])
    sampled = judge_batches(estimate, x, labels, batch, delta=2.0, progress=nothing)
    methods = {"plm": {"all": whole.result(), "batches": sampled.result()}}
    show({"data": "mine", "split": "test", "images": len(x), "methods": methods, "proxies": None})
    said = capsys.readouterr().err
    assert "in batches: no positive pairs" in said and "all pairs: attracted" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch.groups", "2", "--batch.group_size", "3"], "manifold.k 10 must be .* below 6, the images of a batch"),
        (["--manifold.dim", "3", "--manifold.k", "2"], "manifold.k 2 must be at least manifold.dim 3"),
        (["--sweeps", __file__], "is not a folder"),
    ],
)
def test_what_the_estimates_can_not_use_is_refused_before_they_are_made(monkeypatch, arguments, named):
    monkeypatch.setattr(sys, "argv", ["supervision", "--shards", "nowhere", *arguments])
    with pytest.raises(UserError, match=named):
        command.main()


def test_targets_of_the_gallery_are_the_same_in_a_batch():
    x, _ = cloud()
    batch, config = torch.tensor([0, 5, 10, 1, 6, 11, 2, 7]), Config(manifold=ManifoldConfig(dim=2, k=5))
    for name in ("gallery", "projected"):
        estimate = build_estimate(name, x, 5, config)
        whole, seen = estimate.view(batch), estimate.within(batch).view(torch.arange(8))
        assert torch.equal(seen.similarity, whole.similarity[:, batch])
        for own, every in zip(seen.sets, whole.sets, strict=True):
            assert batch[own].tolist() == [each for each in every.tolist() if each in batch]
    # With a threshold of 0 all k neighbours join: plain PCA of the point and its neighbours.
    mean = torch.cat([x[:1], x[order_of(x)[0, :5]]]).mean(0)
    flat = build_estimate("projected", x, 5, Config(manifold=ManifoldConfig(dim=2, k=5, threshold=0)))
    basis = torch.linalg.svd(torch.cat([x[:1], x[order_of(x)[0, :5]]]) - mean).Vh[:2]
    assert torch.allclose(flat.pieces.projected[0], mean + basis.T @ (basis @ (x[0] - mean)), atol=1e-5)


def test_the_other_view_of_an_image_counts_for_nothing():
    # Images 0 to 3 with two views each; labels 0 0 1 1. The first two points are judged.
    images, labels = torch.arange(8) // 2, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    indices, members = torch.tensor([[0, 1, 4, 2], [1, 0, 2, 4]]), torch.tensor([[True, True, False, True], [True] * 4])
    target = torch.full((2, 8), 0.5)
    distance = torch.tensor([[0, 0, 0.6, 0.4, 0.6, 0.4, 0.4, 0.4], [0, 0, 0.4, 0.4, 0.4, 0.4, 0.4, 0.6]])
    found = BatchJudge.of(target, distance, indices, members, rows=torch.tensor([0, 1]), labels=labels, images=images)
    # X_0 is {0, 2}, its control {0, 4}; X_1 is {1, 2, 4} and its own control.
    assert found.purity.means["purity"] == pytest.approx((1 + 2 / 3) / 2)
    assert found.control.means["purity"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.attraction == Attraction(4, 8, 1, 2)
    assert BatchJudge.from_sums(found.sums) == found
    assert BatchJudge().shares == {}


def test_the_papers_numbers_are_whole():
    rows = published()["recall"]["rows"]
    assert len(rows) == 18
    for row in rows:
        for data, ks in published()["recall"]["ks"].items():
            assert row[data] == sorted(row[data]) and len(row[data]) == len(ks)
    assert supervision("cub200")["plm"] == {"purity": 0.67, "correlation": 0.61}
    assert "purity" not in supervision("sop")["random walk"]
    assert supervision("mine") == {name: {} for name in ("k-means", "hierarchical", "random walk", "plm")}

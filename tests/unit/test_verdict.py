"""Verdicts on a network, with labels and without, against embeddings whose quality is known."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dist_plm.evaluation.intervals import bootstrap
from dist_plm.evaluation.label_free import Estimate, TwoViews, overlap
from dist_plm.evaluation.verdict import read_verdicts, recall_verdict, view_verdict, word_of_views
from dist_plm.training.held_out import HeldOutViews


def test_a_bootstrap_interval_is_that_of_resampled_queries():
    draw = np.random.default_rng(1)
    values = draw.choice([-1, 0, 1], 400, p=[0.1, 0.7, 0.2])
    resampled = values[draw.integers(0, 400, (4_000, 400))].mean(1)
    interval = bootstrap(values)
    assert interval.value == pytest.approx(values.mean())
    assert np.allclose(interval[1:], np.quantile(resampled, [0.025, 0.975]), atol=0.006)
    assert bootstrap(np.ones(5)) == (1, 1, 1)


def test_intervals_cover_the_true_recall_in_95_of_100_samples():
    draw = np.random.default_rng(2)
    covered = [low <= 0.4 <= high for _, low, high in (bootstrap(draw.random(300) < 0.4) for _ in range(400))]
    assert 0.92 <= np.mean(covered) <= 0.98


def views(noise: float, n: int = 300) -> TwoViews:
    """Two views of points of 30 clusters that differ by noise: the less, the better the embedding."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(30, 16, generator=draw).repeat(n // 30, 1) + 0.5 * torch.randn(n, 16, generator=draw)
    return TwoViews(*(normalize(images + noise * torch.randn(n, 16, generator=draw)) for _ in range(2)))


def verdict_of(now: TwoViews, start: TwoViews):
    both = HeldOutViews(now.first, now.first, now.second, now.first, now.second)
    before = HeldOutViews(start.first, start.first, start.second, start.first, start.second)
    return view_verdict("teacher", 9, both.change_since(before), both.statistics(), moved=0.5)


def test_without_labels_less_noise_is_better_and_more_is_worse():
    assert verdict_of(views(0.2), views(0.6)).word == "better"
    assert verdict_of(views(0.6), views(0.2)).word == "worse"
    assert verdict_of(views(0.3), views(0.3)).word == "no difference"


@pytest.mark.parametrize(
    ("recall", "strong", "agreement", "word"),
    [
        (3, 3, 0, "better"), (3, 3, 3, "better"), (-3, -1, 0, "worse"), (0, 0, 1, "no difference"),
        (3, 3, -3, "can't tell"), (-3, -3, 3, "can't tell"), (0, 0, 3, "can't tell"), (4, -4, 0, "no difference"),
    ],
)  # fmt: skip
def test_the_word_without_labels(recall, strong, agreement, word):
    """Changes in standard errors of 0.01."""
    changes = {"view_recall": recall, "strong_view_recall": strong, "agreement": agreement}
    assert word_of_views({name: Estimate(0.01 * z, 0.01) for name, z in changes.items()}) == word


def test_statistics_and_their_changes_by_brute_force():
    now, start = views(0.2, 60), views(0.6, 60)
    agreement, hits = [], []
    for pair in (now, start):
        distances = [torch.cdist(z.double(), z.double()).fill_diagonal_(9) for z in (pair.first, pair.second)]
        sets = [[set(row.tolist()) for row in d.topk(10, largest=False).indices] for d in distances]
        agreement.append(torch.tensor([len(a & b) / 10 for a, b in zip(*sets, strict=True)], dtype=torch.double))
        across = torch.cdist(pair.first.double(), pair.second.double()).argmin(1)
        hits.append((across == torch.arange(60)).double())
    for name, values in (("agreement", agreement), ("view_recall", hits)):
        change, difference = now.change_since(start)[name], values[0] - values[1]
        assert now.statistics()[name].value == pytest.approx(values[0].mean().item())
        assert change.value == pytest.approx(difference.mean().item())
        assert change.error == pytest.approx(difference.std().item() / 60**0.5)


def test_overlap_counts_common_neighbours_in_any_order():
    assert overlap(torch.tensor([[1, 2], [0, 2]]), torch.tensor([[2, 1], [3, 4]])).tolist() == [1, 0]


def hits(right: int, of: int = 1_000) -> np.ndarray:
    return (np.arange(of) < right).astype(np.int8)


def test_with_labels_the_paired_difference_decides():
    better = recall_verdict(
        "teacher", 9, hits(440), hits(400), {"the frozen features": hits(500), "raw pixels": hits(300)}
    )
    assert better.word == "better" and "R@1 +4.0 points" in better.text
    assert "LOWER than the frozen features -6.0 points" in better.text
    assert "against raw pixels +14.0 points" in better.text
    worse = recall_verdict("teacher", 9, hits(360), hits(400))
    assert worse.word == "worse" and worse.text.startswith("LOWER than the start: R@1 -4.0 points")
    assert recall_verdict("teacher", 9, hits(400), hits(400)).word == "no difference"
    assert recall_verdict("teacher", 9, hits(22, 50), hits(20, 50)[::-1].copy()).word == "can't tell"


def test_queries_that_do_not_count_are_left_out():
    one, other = hits(440), hits(400)
    one[500:], other[500:] = -1, -1
    assert "+8.0 points" in recall_verdict("student", 1, one, other).text
    assert "500 queries" in recall_verdict("student", 1, one, other).text


def test_the_newest_verdict_of_each_network_is_read(tmp_path):
    said = {"event": "verdict", "basis": "views", "text": "t"}
    events = [
        said | {"model": "student", "step": 1, "verdict": "worse"},
        said | {"model": "teacher", "step": 1, "verdict": "better"},
        said | {"model": "student", "step": 2, "verdict": "can't tell"},
        {"event": "warning", "message": 'a "verdict" of another kind'},
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in events) + '{"event": "verdict'
    )
    found = read_verdicts(tmp_path)
    assert {name: (each.step, each.word) for name, each in found.items()} == {
        "student": (2, "can't tell"),
        "teacher": (1, "better"),
    }
    assert read_verdicts(tmp_path / "missing") == {}

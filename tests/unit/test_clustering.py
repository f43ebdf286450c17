"""NMI against its definition by loops, on clusterings that are known."""

import sys
from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dist_plm.evaluation import cluster_agreement, nmi
from dist_plm.index import clustering as clusters_of


def loop_nmi(classes, clusters):
    """2 I(Y; C) / (H(Y) + H(C)) from counted shares."""
    n = len(classes)
    pairs = list(zip(classes.tolist(), clusters.tolist(), strict=True))

    def entropy(values):
        shares = [values.count(value) / n for value in set(values)]
        return -sum(share * log(share) for share in shares)

    y, c = [a for a, _ in pairs], [b for _, b in pairs]
    information = entropy(y) + entropy(c) - entropy(pairs)
    return 2 * information / (entropy(y) + entropy(c))


def clouds(classes=6, members=20, noise=0.01, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), members)
    return (np.eye(classes)[labels] + noise * generator.standard_normal((len(labels), classes))).astype("f"), labels


def without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)


@pytest.mark.parametrize("library", ["faiss", "sklearn"])
def test_value_is_the_definition_for_the_clusters_found(library, monkeypatch):
    if library == "faiss":
        pytest.importorskip("faiss")
    else:
        without_faiss(monkeypatch)
    points, labels = clouds(noise=0.5)
    found = []
    original = cluster_agreement.kmeans_labels
    monkeypatch.setattr(cluster_agreement, "kmeans_labels", lambda *args: found.append(original(*args)) or found[0])
    value = nmi(points, labels, seed=0)
    assert value == pytest.approx(loop_nmi(labels, found[0]), abs=1e-9)
    assert 0.1 < value < 0.95
    assert len(set(found[0].tolist())) == 6


def test_two_distant_classes_are_found():
    points, labels = clouds(classes=2)
    assert nmi(points, labels, seed=3) == pytest.approx(1.0)


def test_same_seed_same_value_and_tensors_are_arrays():
    points, labels = clouds(noise=0.4)
    values = {nmi(points, labels, seed=5), nmi(torch.from_numpy(points), torch.from_numpy(labels), seed=5)}
    assert len(values) == 1


def test_unlabelled_rows_are_left_out():
    points, labels = clouds(noise=0.4)
    more = np.concatenate([points, np.full((40, 6), 9, "f")])
    assert nmi(more, np.concatenate([labels, np.full(40, -1)]), seed=1) == nmi(points, labels, seed=1)
    with pytest.raises(ValueError, match="labelled"):
        nmi(points, np.full(len(points), -1), seed=1)


def test_collapsed_embeddings_have_a_value():
    assert 0 <= nmi(np.ones((30, 4), "f"), np.arange(30) % 3, seed=0) < 0.5


@pytest.mark.parametrize(("gpus", "asked"), [(0, 0), (1, 1), (8, 1)])
def test_k_means_takes_one_gpu_where_there_are_some(gpus, asked, monkeypatch):
    """True would take all, with memory on those of the other ranks."""

    class Kmeans:
        def __init__(self, dim, k, *, gpu, **options):
            assert gpu == asked and not isinstance(gpu, bool)
            self.index = SimpleNamespace(search=lambda points, k: (None, np.zeros((len(points), 1), np.int64)))

        def train(self, points):
            pass

    library = SimpleNamespace(Kmeans=Kmeans, get_num_gpus=lambda: gpus, StandardGpuResources=None)
    monkeypatch.setattr(clusters_of, "find_faiss", lambda: library)
    assert clusters_of.kmeans_labels(clouds()[0], 6, seed=0).tolist() == [0] * 120

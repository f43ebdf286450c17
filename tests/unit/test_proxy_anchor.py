"""Proxy-Anchor against its equation as loops and against pytorch-metric-learning; proxies in slices and in place."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dist_plm.config import Config, ModelConfig, ProxyAnchorConfig, PseudoLabelsConfig
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from dist_plm.methods.proxy_anchor import proxy_anchor_loss
from dist_plm.model.proxies import ClassProxies
from tests import baselines_oracle as oracle

CLASSES, DIM = 9, 6


def setting(points: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z [G, D], labels of some of the classes [G], raw proxies [C, D]."""
    generator = torch.Generator().manual_seed(0)
    z, proxies = (torch.randn(n, DIM, dtype=torch.float64, generator=generator) for n in (points, CLASSES))
    return normalize(z), torch.randint(0, CLASSES - 3, (points,), generator=generator), proxies


@pytest.mark.parametrize(("positive", "negative"), [(32.0, 32.0), (40.0, 100.0), (100.0, 200.0)])
def test_method_is_the_loops(positive: float, negative: float) -> None:
    z, labels, _ = setting()
    settings = ProxyAnchorConfig(alpha_positive=positive, alpha_negative=negative)
    method = build_method("proxy_anchor", Config(model=ModelConfig(dim=DIM), proxy_anchor=settings), World(), CLASSES)
    method = method.double()
    loss = method(Points(z, z, 1, labels=labels)).share
    proxies = method.proxies.raw.detach().numpy()
    expected = oracle.proxy_anchor_loss(z.numpy(), labels.tolist(), proxies, 0.1, positive, negative)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-12)


def test_value_and_gradients_are_those_of_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    z, labels, proxies = setting()
    theirs = losses.ProxyAnchorLoss(CLASSES, DIM, margin=0.1, alpha=32)
    theirs.proxies.data = proxies.clone()
    ours = proxies.clone().requires_grad_()
    z_theirs, z_ours = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected = theirs(z_theirs, labels)
    options = {"margin": 0.1, "alpha_positive": 32.0, "alpha_negative": 32.0}
    found = proxy_anchor_loss(z_ours, labels, normalize(ours), 0, CLASSES, **options)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, theirs.proxies.grad, rtol=1e-10, atol=1e-14)
    # Theirs divides by |z|, which takes the radial part of the gradient away.
    tangent = z_ours.grad - (z_ours.grad * z).sum(dim=1, keepdim=True) * z
    torch.testing.assert_close(tangent, z_theirs.grad, rtol=1e-10, atol=1e-14)


def test_slices_of_proxies_add_up_and_extreme_cosines_stay_finite() -> None:
    z, labels, proxies = setting()
    options = {"margin": 0.1, "alpha_positive": 1e4, "alpha_negative": 1e4}
    p = normalize(proxies)
    whole = proxy_anchor_loss(z, labels, p, 0, CLASSES, **options)
    parts = [proxy_anchor_loss(z, labels, p[a:b], a, CLASSES, **options) for a, b in ((0, 4), (4, 9), (9, 9))]
    assert whole.isfinite()
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_slices_are_drawn_alike_and_looked_up(world_size: int) -> None:
    whole = ClassProxies(CLASSES, DIM, seed=5)
    slices = [ClassProxies(CLASSES, DIM, seed=5, rank=r, world_size=world_size) for r in range(world_size)]
    torch.testing.assert_close(torch.cat([each.raw for each in slices]), whole.raw, rtol=0, atol=0)
    labels = torch.tensor([0, 8, 3, 3, 5])
    found = sum(each.of(labels, each(), World()) for each in slices)
    torch.testing.assert_close(found, whole()[labels])
    assert abs(float(ClassProxies(2000, 64, seed=0).raw.var()) / (2 / 2000) - 1) < 0.02


def test_pseudo_labels_place_proxies_at_the_centroids() -> None:
    z, labels, _ = setting(points=40)
    labels[0] = -1  # no cluster
    config = Config(model=ModelConfig(dim=DIM), pseudo_labels=PseudoLabelsConfig(clusters=CLASSES))
    ranks = [build_method("pseudo_labels", config, World(rank=rank, size=2)).double() for rank in range(2)]
    before = torch.cat([rank.proxies.raw.detach().clone() for rank in ranks])
    for rank in ranks:
        rank.relabel(z.numpy(), labels.numpy())
    placed = torch.cat([rank.proxies.raw.detach() for rank in ranks])
    torch.testing.assert_close(placed.norm(dim=1), before.norm(dim=1))
    for cluster in range(CLASSES):
        own = z[labels == cluster]
        expected = normalize(own.mean(dim=0), dim=0) if len(own) else normalize(before[cluster], dim=0)
        torch.testing.assert_close(normalize(placed[cluster], dim=0), expected)


@pytest.mark.parametrize("clustering", ["k_means", "ward", "random_walk"])
def test_clusters_find_separate_clouds_and_the_same_each_time(clustering: str) -> None:
    random = np.random.default_rng(0)
    centres = np.linalg.qr(random.normal(size=(8, 8)))[0][:4]
    truth = np.arange(200) % 4
    points = centres[truth] + 0.05 * random.normal(size=(200, 8))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    settings = PseudoLabelsConfig(clustering=clustering, clusters=4)
    method = build_method("pseudo_labels", Config(model=ModelConfig(dim=8), pseudo_labels=settings), World())
    labels = method.cluster(points)
    assert len(np.unique(labels)) == 4 and len({*zip(labels.tolist(), truth.tolist(), strict=True)}) == 4
    np.testing.assert_array_equal(labels, method.cluster(points))

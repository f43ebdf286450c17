"""STML against its equations as loops, and where its pieces have known values."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dist_plm.config import BatchConfig, Config, ModelConfig, StmlConfig
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from dist_plm.methods.stml import contextualised_similarity, relative_distance, self_distillation
from tests import baselines_oracle as oracle

VIEWS = 2


def embeddings(points: int = 24, dim: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(points, dim, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize(("group_size", "sigma", "delta"), [(2, 3.0, 1.0), (3, 0.5, 0.9), (1, 3.0, 1.5)])
def test_loss_is_that_of_the_loops(group_size: int, sigma: float, delta: float, monkeypatch) -> None:
    monkeypatch.setattr("dist_plm.methods.stml.SIGMA", sigma)
    f, g, t = embeddings(dim=4), embeddings(dim=6, seed=1), embeddings(dim=6, seed=2)
    ids = torch.arange(12).flip(0).repeat_interleave(VIEWS)
    config = Config(
        model=ModelConfig(dim=4, wide_dim=6),
        batch=BatchConfig(groups=12 // group_size, group_size=group_size),
        stml=StmlConfig(delta=delta),
    )
    loss = build_method("stml", config, World())(Points(f, f, VIEWS, ids=ids, student_wide=g, teacher_wide=t))
    expected = oracle.stml_loss(*(each.numpy() for each in (f, g, t, ids)), group_size * VIEWS, sigma, delta)
    np.testing.assert_allclose(float(loss.share), expected, rtol=1e-12)
    np.testing.assert_allclose(float(sum(loss.terms.values())), expected, rtol=1e-12)


def test_similarity_is_symmetric_and_1_within_tight_groups() -> None:
    # Three groups of four coinciding points, far apart: a neighbourhood is its group.
    t, ids = torch.eye(3, dtype=torch.float64).repeat_interleave(4, dim=0), torch.arange(6).repeat_interleave(2)
    w = contextualised_similarity(t, ids, k=4, sigma=1.0)
    same = torch.arange(3).repeat_interleave(4)
    torch.testing.assert_close(w, w.T)
    expected = torch.where(same[:, None] == same[None, :], 1.0, float(np.exp(-2.0)) / 2).double()
    torch.testing.assert_close(w, expected)


def test_rows_of_relative_distances_have_mean_1_and_coinciding_points_stay_finite() -> None:
    s = embeddings()
    torch.testing.assert_close(relative_distance(s, s).mean(dim=1), torch.ones(24, dtype=torch.float64))
    one = embeddings(points=1).expand(6, -1).clone().requires_grad_()
    d = relative_distance(one, one)
    d.sum().backward()
    assert not d.any() and one.grad is not None and one.grad.isfinite().all()


def test_distillation_trains_f_alone_and_vanishes_where_f_is_g() -> None:
    f, g = embeddings().requires_grad_(), embeddings(seed=1).requires_grad_()
    self_distillation(relative_distance(f, f), relative_distance(g, g)).backward()
    assert f.grad is not None and f.grad.norm() > 0 and g.grad is None
    d = relative_distance(f, f)
    assert abs(float(self_distillation(d, d).detach())) < 1e-15


def test_more_coinciding_points_than_a_neighbourhood_holds_stay_finite() -> None:
    # Six black images: the last of their points have k others before them, and are not their own neighbours.
    t, ids = embeddings(points=24, dim=6), torch.arange(12).repeat_interleave(VIEWS)
    t[:12] = t[0]
    w = contextualised_similarity(t, ids, k=4, sigma=3.0)
    assert w.isfinite().all() and (w >= 0).all() and (w <= 1).all()
    torch.testing.assert_close(w, w.T)

"""Heads that start at principal directions against numpy's SVD, and the learner that begins from them."""

import numpy as np
import pytest
import torch

from dist_plm.config import Config, ModelConfig
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.index.rows import HeldRows
from dist_plm.training import head_start
from dist_plm.training.head_start import principal_projection
from dist_plm.training.learner import Learner, phases


def correlated(count: int = 60, width: int = 9) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.normal(size=(count, width)) @ draw.normal(size=(width, width)) + draw.normal(size=width)


def rows(points: np.ndarray) -> HeldRows:
    return HeldRows(torch.from_numpy(points))


@pytest.mark.parametrize("whiten", [False, True])
def test_projections_are_those_of_a_singular_value_decomposition(whiten, monkeypatch):
    monkeypatch.setattr(head_start, "BLOCK", 25)
    points = correlated()
    weight, bias = principal_projection(rows(points), 4, whiten=whiten)
    centred = points - points.mean(axis=0)
    left, sigma, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :4] * (1 if whiten else sigma[:4])
    found = (torch.from_numpy(points) @ weight.T + bias).numpy()
    # Alike but for the sign of a direction and one length for all.
    scale = np.linalg.norm(found) / np.linalg.norm(expected)
    np.testing.assert_allclose(np.abs(found), scale * np.abs(expected), atol=1e-9)
    assert weight.norm().item() == pytest.approx(2.0)


def test_signs_do_not_depend_on_the_solver():
    points = correlated()
    weight, _ = principal_projection(rows(points), 4, whiten=False)
    assert (weight.gather(1, weight.abs().argmax(dim=1, keepdim=True)) > 0).all()
    again, _ = principal_projection(rows(points[::-1].copy()), 4, whiten=False)
    torch.testing.assert_close(weight, again)


def test_too_few_directions_are_told():
    flat = rows(correlated()[:, :3] @ np.ones((3, 9)))
    with pytest.raises(UserError, match=r"model\.head_start needs 4 directions"):
        principal_projection(flat, 4, whiten=True)
    with pytest.raises(UserError, match=r"model\.head_start needs 10 directions"):
        principal_projection(rows(correlated()), 10, whiten=False)
    with pytest.raises(UserError, match=r"needs 4 directions \(model.dim\), the features of 4 images"):
        principal_projection(rows(correlated()[:4]), 4, whiten=False)


def test_student_and_teacher_begin_at_the_whitened_features():
    config = Config(model=ModelConfig(backbone="small", dim=6, wide_dim=10, head_start="whitened"))
    learner = Learner(config, World(), phases(config)[0])
    images = torch.randint(0, 256, (80, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    asked = []

    def features(pooled):
        asked.append(pooled(images))
        return HeldRows(asked[0])

    learner.start_heads(features)
    student = learner.student
    with torch.no_grad():
        whitened = student.head(asked[0]).double()
        wide = student.wide_head(asked[0]).double()
    covariance = whitened.T @ whitened / 80
    torch.testing.assert_close(covariance, covariance[0, 0] * torch.eye(6, dtype=torch.float64), atol=1e-3, rtol=1e-3)
    spread = wide.var(dim=0)  # the wide head keeps the features' own lengths
    assert (spread[:-1] >= spread[1:]).all() and spread[0] > 2 * spread[-1]
    for mine, theirs in zip(student.parameters(), learner.teacher.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.requires_grad and not theirs.requires_grad
    learner.start_heads(features)
    assert len(asked) == 2


def test_an_orthogonal_start_asks_for_no_features():
    config = Config(model=ModelConfig(backbone="small", dim=6))
    learner = Learner(config, World(), phases(config)[0])
    before = learner.student.head.weight.clone()
    learner.start_heads(lambda pooled: pytest.fail("swept for nothing"))
    assert torch.equal(before, learner.student.head.weight)

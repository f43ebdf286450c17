"""Learning rates over a phase, resting groups, and moments that begin anew."""

import pytest
import torch
from torch import nn

from dist_plm.config import OptimiserConfig
from dist_plm.parallel.optimiser import begun, build_updates, forget, learning_rate, update


@pytest.mark.parametrize(
    ("milestones", "decay", "rates"),
    [
        ([2, 3], 0.1, [1, 1, 0.1, 0.01, 0.01]),
        ([4], 0.5, [1, 1, 1, 1, 0.5]),
        ([], 0.5, [1] * 5),
        ([1, 1], 0.5, [1] + [0.25] * 4),
    ],
)
def test_rate_falls_at_milestones(milestones, decay, rates):
    config = OptimiserConfig(schedule="steps", milestones=milestones, decay=decay)
    found = [learning_rate(config, 3.0, 7 * epoch + 2, 35, epoch) for epoch in range(5)]
    assert found == pytest.approx([3.0 * rate for rate in rates])


def test_cosine_ends_at_0_and_constant_stays():
    assert learning_rate(OptimiserConfig(), 1.0, 50, 100, 0) == pytest.approx(0.5)
    assert learning_rate(OptimiserConfig(schedule="constant"), 1.0, 99, 100, 0) == 1.0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_backbone_rests_and_then_moves(name):
    backbone, head, own = (nn.Parameter(torch.ones(3)) for _ in range(3))
    config = OptimiserConfig(name=name, head_only_epochs=2)
    updates = build_updates([backbone], [head], [own], config, method_lr_scale=7.0)
    rules = [begun(updates.network), updates.method]
    for epoch, resting in ((0, True), (1, True), (2, False)):
        updates.set_learning_rate(0.1, epoch)
        assert [group["lr"] for rule in rules for group in rule.param_groups] == pytest.approx(
            [0.1 * (not resting), 0.1, 0.7]
        )
        before = backbone.detach().clone()
        for parameter in (backbone, head, own):
            parameter.grad = torch.ones(3)
        for rule in rules:
            update(rule, torch.zeros(()))
        assert torch.equal(backbone, before) == resting
    assert not torch.equal(head, torch.ones(3))


def test_moments_begin_anew():
    own = nn.Parameter(torch.ones(2))
    updates = build_updates([nn.Parameter(torch.ones(3))], [], [own], OptimiserConfig(), method_lr_scale=1.0)
    updates.set_learning_rate(0.1)
    own.grad = torch.ones(2)
    update(updates.method, torch.zeros(()))
    assert all(value.any() for value in updates.method.state[own].values())
    forget(updates.method)
    assert not any(value.any() for value in updates.method.state[own].values())

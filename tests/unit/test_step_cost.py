"""What a step of the method may not do: ask the device, loop over points, hold a tensor of B x P x M or B x P x D."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from dist_plm.config import (
    BatchConfig,
    Config,
    LossConfig,
    ManifoldConfig,
    ModelConfig,
    OptimiserConfig,
    ProxiesConfig,
)
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from dist_plm.methods.base import Method
from dist_plm.parallel.optimiser import update
from dist_plm.training.learner import Learner, Report, phases

B, D, P, M, K = 60, 48, 90, 3, 8
CONFIG = Config(
    model=ModelConfig(dim=D), manifold=ManifoldConfig(dim=M, k=K), proxies=ProxiesConfig(count=P, start="data")
)


class Watched(TorchDispatchMode):
    """Counts operations and notes the largest tensor that one made, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest, self.what = 0, ""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.calls[str(function)] += 1
        for each in result if isinstance(result, tuple | list) else [result]:
            # A view of a few numbers may have any shape: what counts is what lies in memory.
            if isinstance(each, torch.Tensor) and (size := each.untyped_storage().nbytes() // 4) > self.largest:
                self.largest, self.what = size, f"{function} {list(each.shape)}"
        return result


def step(method: Method, points: int = B) -> None:
    random = torch.Generator().manual_seed(0)
    z, x = (normalize(torch.randn(points, D, generator=random)) for _ in range(2))
    z.requires_grad_()
    method(Points(z, x, views=2)).share.backward()


@pytest.mark.parametrize("name", ["plm", "instance"])
def test_no_large_tensor(name):
    method = build_method(name, CONFIG, World())
    with Watched() as seen:
        step(method)
    # Pairs; the differences v [B, k + 1, D]; bases [B, D, M]; proxies [P, D, M].
    allowed = max(B * B, B * P, B * (K + 1) * D, B * D * M, P * D * M)
    assert B * P * M < seen.largest <= allowed or name != "plm", seen.what  # sees the large ones that there are
    assert seen.largest <= allowed, seen.what
    assert allowed < min(B * P * D, B * B * D)


def test_no_loop_over_points():
    counts = []
    for points in (B, 2 * B):
        method = build_method("plm", CONFIG, World())
        with Watched() as seen:
            step(method, points)
        counts.append(seen.calls)
    assert counts[0] == counts[1] and counts[0].total() > 100


@pytest.mark.parametrize("name", ["plm", "instance"])
def test_the_host_asks_the_device_nothing(name):
    """On tensors without values: whoever reads one (`item`, a condition, a mask as index) raises."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        step(build_method(name, CONFIG, World()))


@pytest.mark.parametrize("relative", [False, True])
def test_distances_of_the_batch_are_computed_once(relative):
    """Those of f_phi for neighbours, similarity and the unit of delta, and those of f_theta for the loss."""
    config = replace(CONFIG, proxies=ProxiesConfig(count=0), loss=LossConfig(relative=relative))
    with Watched() as seen:
        step(build_method("plm", config, World()))
    assert seen.calls["aten._cdist_forward.default"] == 2


def small_learner(clip_norm: float = 1.0, **optimiser: Any) -> tuple[Learner, Callable[[int], Report]]:
    config = Config(
        model=ModelConfig(backbone="small", dim=16),
        batch=BatchConfig(groups=4, group_size=5),
        proxies=ProxiesConfig(count=7, lr_scale=1.0),
        optimiser=OptimiserConfig(clip_norm=clip_norm, **optimiser),
    )
    learner = Learner(config, World(), phases(config)[-1])
    batch = Batch(0, torch.arange(20), torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8))
    return learner, lambda number: learner.step(batch, number, 10)


def test_gradients_are_clipped_together():
    learner, step = small_learner()
    with Watched() as seen:
        step(0)
    assert seen.calls["aten._foreach_mul_.Tensor"] == 1
    assert seen.calls["aten.mul_.Tensor"] < len(learner.strategy.gradients() or list(learner.student.parameters()))


def test_a_step_walks_over_no_modules(monkeypatch):
    """But to put them in training mode, and the method's, which are few."""
    step = small_learner()[1]
    step(0)
    walked, walk = [], torch.nn.Module.named_modules

    def noted(self, *arguments, **options):
        walked.append(type(self).__name__)
        return walk(self, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "named_modules", noted)
    step(1)
    assert {"Encoder", "Teacher", "Sequential"} & set(walked) == set()


def test_a_gradient_in_the_order_of_its_weight_is_not_copied():
    """A 1 x 1 convolution's has other strides over channels-last maps, and the same order in memory."""
    for gradient, copies in ((torch.randn(8, 1, 1, 4).permute(0, 3, 1, 2), 0), (torch.randn(8, 4, 3, 3), 1)):
        weight = torch.nn.Parameter(
            torch.randn(8, 4, *gradient.shape[2:]).contiguous(memory_format=torch.channels_last)
        )
        rule = torch.optim.SGD([weight], lr=0.5, fused=True)
        weight.grad, before = gradient, weight.detach().clone()
        expected = before - 0.5 * weight.grad
        assert weight.grad.stride() != weight.stride()
        with Watched() as seen:
            update(rule, torch.zeros(()))
        assert seen.calls["aten.copy_.default"] == copies
        torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_whole_step_asks_nothing(optimiser):
    """Networks, method, clipping, update, momentum encoder; the numbers for the log are asked for, every few steps."""
    config = Config(
        model=ModelConfig(backbone="small", dim=16),
        batch=BatchConfig(groups=4, group_size=5),
        proxies=ProxiesConfig(count=7, lr_scale=1.0),
        optimiser=OptimiserConfig(name=optimiser, clip_norm=1.0),
    )
    learner = Learner(config, World(), phases(config)[-1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        views = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
        report = learner.step(Batch(0, torch.arange(20), views), 0, 10)
        with pytest.raises(DataDependentOutputException):
            learner.describe(report)


def moved(clip_norm: float) -> tuple[list[Tensor], list[Tensor]]:
    """How far a step of SGD moves the student's parameters and the method's own, the proxies."""
    torch.manual_seed(0)
    learner, step = small_learner(clip_norm, name="sgd", lr=1.0, weight_decay=0.0, backbone_lr_scale=1.0)
    parameters = [list(learner.student.parameters()), list(learner.method.parameters())]
    for parameter in parameters[1]:
        parameter.register_hook(lambda gradient: 1e3 * gradient)  # else their share of the norm is below the tolerance
    before = [[each.detach().clone() for each in some] for some in parameters]
    step(0)
    student, own = (
        [new.detach() - old for new, old in zip(*some, strict=True)] for some in zip(parameters, before, strict=True)
    )
    return student, own


def test_all_gradients_are_clipped_by_one_norm():
    """A limit above the norm changes no bit; one below it scales student and proxies by the same number."""
    free, above = moved(0.0), moved(1e6)
    assert all(torch.equal(a, b) for some in zip(free, above, strict=True) for a, b in zip(*some, strict=True))
    limited = moved(0.01)
    pairs = [pair for some in zip(free, limited, strict=True) for pair in zip(*some, strict=True) if pair[0].any()]
    total = sum(before.square().sum() for before, _ in pairs) ** 0.5
    for before, after in pairs:
        torch.testing.assert_close(after, before * (0.01 / total), rtol=1e-3, atol=2e-7)  # rounding of weights of 1

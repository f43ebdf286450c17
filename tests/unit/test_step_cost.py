"""What a step of the method may not do: ask the device, loop over points, hold a tensor of B x P x M or B x P x D."""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, OptimiserConfig, ProxiesConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from dist_plm.methods.base import Method
from dist_plm.training.learner import Learner, phases

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


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_whole_step_asks_nothing(optimiser):
    """Networks, method, clipping, update, momentum encoder; the numbers for the log are asked for, every few steps."""
    config = Config(
        model=ModelConfig(backbone="small", dim=16),
        batch=BatchConfig(groups=4, group_size=5),
        proxies=ProxiesConfig(count=7),
        optimiser=OptimiserConfig(name=optimiser, clip_norm=1.0),
    )
    learner = Learner(config, World(), phases(config)[-1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        views = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
        report = learner.step(Batch(0, torch.arange(20), views), 0, 10)
        with pytest.raises(DataDependentOutputException):
            learner.describe(report)

"""Operators of a step, as `--plan` prints them, against those that torch's profiler sees in a real one."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, RuntimeConfig, TrainConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.methods import METHODS
from dist_plm.training.learner import Learner, phases
from dist_plm.training.operators import HOST_SECONDS, operators_of_step, operators_row

SMALL = {
    "model": ModelConfig(backbone="small", dim=8, wide_dim=16),
    "batch": BatchConfig(groups=4, group_size=3),
    "manifold": ManifoldConfig(k=5),
    "proxies": ProxiesConfig(count=5),
}


def test_no_operator_of_a_real_step_is_left_out():
    config = Config(**SMALL)
    learner = Learner(config, World(), phases(config)[-1])
    batch = Batch(0, torch.arange(12), torch.zeros(24, 3, 32, 32, dtype=torch.uint8))
    learner.step(batch, 0, 10)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        learner.step(batch, 1, 10)
    seen = {event.key: event.count for event in watched.key_averages()}
    counted = operators_of_step(config)
    kinds = ("aten::mul", "aten::convolution", "aten::convolution_backward", "aten::bmm", "aten::_cdist_forward")
    assert sum(seen[kind] for kind in kinds) < counted < sum(n for key, n in seen.items() if key.startswith("aten::"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_counted_or_has_no_line(method):
    config = Config(**SMALL, train=TrainConfig(method=method))
    row = operators_row(config)
    assert bool(row) == (method not in ("pseudo_labels", "proxy_anchor", "dada"))
    if row:
        count = operators_of_step(config)
        assert count > 150 and f"{count:,} a step" in row[0][1] and f"{1e3 * HOST_SECONDS * count:,.0f} ms" in row[0][1]


def test_a_step_that_is_faster_than_its_host_is_said_to_be():
    config = Config(**SMALL)
    host = HOST_SECONDS * operators_of_step(config)
    assert "bounds it (more images a rank" in operators_row(config, host / 2)[0][1]
    assert operators_row(config, 2 * host)[0][1].endswith(f"a step takes {2e3 * host:,.0f} ms")
    assert "waits for the host" in operators_row(config)[0][1]
    compiled = Config(**SMALL, runtime=RuntimeConfig(compile=True))
    assert operators_row(compiled, host / 2)[0][1].endswith("fewer by runtime.compile")


def test_the_count_depends_on_neither_images_nor_strategy():
    config = Config(**SMALL)
    count = operators_of_step(config)
    assert count == operators_of_step(Config(**{**SMALL, "batch": BatchConfig(groups=8, group_size=5)}))
    assert count == operators_of_step(Config(**SMALL, runtime=RuntimeConfig(strategy="deepspeed")))

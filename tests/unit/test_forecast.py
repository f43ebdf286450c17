"""What `--plan` says of time, disk and activations, against sums by hand and other sizes of image."""

from pathlib import Path

import pytest

from benchmarks.common import build_demo
from dist_plm.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    ViewsConfig,
    WarmUpConfig,
)
from dist_plm.data.store import Store
from dist_plm.training.forecast import Rates, disk_rows, forecast
from dist_plm.training.held_out import held_out_count
from dist_plm.training.rehearsal import rehearse
from dist_plm.training.resources import views_at_once


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo(tmp_path_factory.mktemp("data") / "demo")


def config(**sections) -> Config:
    told = {"train": TrainConfig(epochs=6, evaluate_epochs=2), "warm_up": WarmUpConfig(epochs=0)}
    return Config(**(told | sections))


def test_the_time_of_a_run_is_the_sum_of_its_parts():
    """1,000 images in batches of 100: 10 steps of 4 s; an epoch's sweep 10 s; 5 views of the held-out images and the
    test split, by two networks, at the start, twice between, and at the end."""
    settings = config(batch=BatchConfig(groups=20, group_size=5), data=DataConfig(test_split="test"))
    found = forecast(settings, 1_000, 400, Rates(step=25, embed=100, source="as given"))
    assert (found.epoch, found.sweep, found.cache) == (40, 10, 0)
    held_out = min(held_out_count(settings, 1_000), 400)
    assert found.evaluation == pytest.approx(2 * (5 * held_out + 400) / 100)
    assert found.total == pytest.approx(6 * (40 + 10) + 4 * found.evaluation)


def test_a_run_that_is_cut_short_takes_the_time_of_its_steps():
    batch = BatchConfig(groups=100, group_size=1)
    whole, cut = (
        forecast(config(batch=batch, train=TrainConfig(epochs=6, evaluate_epochs=9, max_steps=steps)), 1_000, 0, RATES)
        for steps in (0, 15)
    )
    assert whole.total - 2 * whole.evaluation == pytest.approx(6 * 40)
    assert cut.total - 2 * cut.evaluation == pytest.approx(60)


RATES = Rates(step=25, embed=100, source="as given")


def test_a_rate_that_is_given_is_of_all_ranks_and_views():
    rates = Rates.from_speed(10, config(views=ViewsConfig(count=2)))
    assert (rates.step, rates.embed) == (10, 60)


def test_disk_counts_every_checkpoint_that_stays():
    """Two newest, the best, one an every third epoch, and one being written: each four copies of what trains."""
    settings = config(checkpoint=CheckpointConfig(keep=2, keep_every_epochs=3), data=DataConfig(test_split=""),
                      batch=BatchConfig(groups=100, group_size=1))  # fmt: skip
    [(_, text)] = disk_rows(settings, 1_000, trained=1_000_000, frozen=500_000)
    assert "6 checkpoints of 18.0 MB 108.0 MB" in text and "plans 0.0 MB" in text


def test_activations_grow_with_the_area_of_a_view(demo):
    found = []
    for size in (32, 64):
        settings = config(
            data=DataConfig(shards=str(demo)),
            views=ViewsConfig(size=size, resize=64),
            model=ModelConfig(backbone="small", dim=16),
            batch=BatchConfig(groups=4, group_size=2),
        )
        with Store(demo, "train") as store:
            found.append(rehearse(settings, store, world_size=1))
    assert found[0].points == 16 and min(found[0].train, found[0].embed, found[0].decode) > 0
    assert found[1].activations > 2 * found[0].activations > 0
    assert found[0].step_rate < min(found[0].train, found[0].decode), "one core decodes and computes"


def test_pieces_and_lanes_keep_fewer_activations():
    batch = BatchConfig(groups=10, group_size=2, micro_batches=2)
    assert views_at_once(config(batch=batch, views=ViewsConfig(count=3)), world_size=2) == 15

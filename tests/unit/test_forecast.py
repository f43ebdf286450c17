"""What `--plan` says of time, disk and activations, against sums by hand and other sizes of image."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common import build_demo
from dist_plm.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    IndexConfig,
    ModelConfig,
    OptimiserConfig,
    ProxiesConfig,
    PseudoLabelsConfig,
    TrainConfig,
    ViewsConfig,
    WarmUpConfig,
)
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.methods import METHODS, build_method
from dist_plm.training.forecast import Rates, disk_rows, forecast
from dist_plm.training.held_out import held_out_count
from dist_plm.training.rehearsal import rehearse
from dist_plm.training.resources import network_sizes, views_at_once


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
                      batch=BatchConfig(groups=100, group_size=1), proxies=ProxiesConfig(count=0))  # fmt: skip
    [(_, text)] = disk_rows(settings, 1_000, classes=1, trained=1_000_000, frozen=500_000, features=0)
    assert "6 checkpoints of 18.0 MB 108.0 MB" in text and "plans 0.0 MB" in text and "features" not in text


def disk_settings(**sections) -> Config:
    alone = {"data": DataConfig(test_split=""), "batch": BatchConfig(groups=100, group_size=1)}
    return config(**alone | sections)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("method", ["plm", "proxy_anchor", "pseudo_labels", "dada"])
def test_disk_counts_the_parameters_of_the_method(method, optimiser):
    """Against those that it makes, each with its moments; of the discriminators, whose biases are left out, Adam's."""
    settings = disk_settings(
        train=TrainConfig(method=method),
        proxies=ProxiesConfig(count=700),
        pseudo_labels=PseudoLabelsConfig(clusters=50),
        optimiser=OptimiserConfig(name=optimiser),
    )
    classes = 50 if method == "pseudo_labels" else 9
    built = build_method(method, settings, World(), classes)
    proxies, everything = (sum(each.numel() for each in found) for found in (built.trained(), built.parameters()))
    expected = 4 * (proxies * (2 if optimiser == "sgd" else 3) + 3 * (everything - proxies))
    assert METHODS[method].stored(settings, 9) == pytest.approx(expected, rel=0 if method != "dada" else 0.02)
    [(_, text)] = disk_rows(settings, 1_000, classes=9, trained=0, frozen=0, features=0)
    assert f"checkpoints of {METHODS[method].stored(settings, 9) / 1e6:,.1f} MB" in text


def test_disk_counts_cached_features(tmp_path):
    """Two drawn views and that of evaluations of 1,000 images, at 512 numbers of 4 or 2 bytes."""
    settings = disk_settings(views=ViewsConfig(size=64, resize=64, cached=2), model=ModelConfig(**HEAD))
    features = network_sizes(settings).features
    assert features == 512
    [(_, text)] = disk_rows(settings, 1_000, classes=1, trained=0, frozen=0, features=features)
    assert "cached features 6.1 MB" in text
    elsewhere = replace(settings, data=DataConfig(test_split="", cache_dir=str(tmp_path)))
    halved = replace(elsewhere, index=IndexConfig(precision="fp16"))
    for case, size in ((elsewhere, "6.1 MB"), (halved, "3.1 MB")):
        run, (_, text) = disk_rows(case, 1_000, classes=1, trained=0, frozen=0, features=features)
        assert text.startswith(f"{size} in {tmp_path}/features") and "features" not in run[1]
    blocks = replace(settings, model=ModelConfig(**HEAD | {"trainable": "blocks:1"}))
    assert network_sizes(blocks).features == 512 * 2 * 2
    assert network_sizes(replace(blocks, views=ViewsConfig(size=64, resize=64))).features == 0


HEAD = {"backbone": "resnet18", "dim": 8, "trainable": "head"}


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

"""Every configuration in configs/: any number of ranks is accepted, and the first step on 8 is that of one process."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.common import on_ranks
from dist_plm.checks import check
from dist_plm.cli import load_config
from dist_plm.config import CheckpointConfig, Config, DataConfig, EvaluationConfig, RuntimeConfig
from dist_plm.data.loader import Batch
from dist_plm.data.plan import random_plan, rank_rows
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.methods import METHODS
from dist_plm.training.learner import Learner, phases
from dist_plm.training.resources import share_rows
from tests.commands import ROOT

CONFIGS = {path.stem: load_config(path) for path in sorted((ROOT / "configs").glob("*.yaml"))}
RANKS, CLASSES, DIM, PIXELS = 8, 30, 8, 16


@pytest.mark.parametrize("world_size", [*range(1, 9), 16, 64])
def test_any_number_of_ranks_is_accepted(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Labels(SimpleNamespace):
        def __enter__(self) -> SimpleNamespace:
            return SimpleNamespace(labels=np.arange(10))

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("dist_plm.checks.settings._check_data", lambda *_: None)  # no data set is here
    monkeypatch.setattr("dist_plm.methods.proxy_anchor.open_split", lambda *_: Labels())
    for name, config in CONFIGS.items():
        if config.runtime.strategy == "reproducible" and world_size > config.runtime.lanes:
            with pytest.raises(UserError, match=r"runtime\.lanes 8 is less than the"):
                check(config, world_size)
            continue
        check(config, world_size)
        shares = batch_shares(config, world_size)
        assert shares.total == config.batch.images and min(shares.sizes) >= 1, name
        assert len(share_rows(config, world_size)) == (1 if shares.equal else 2), name


def shrunken(config: Config) -> Config:
    """The same method and precision (`auto` as fp32) with at most 50 images, a small network and small views; what a
    first step does not read is left at its default."""
    batch = replace(config.batch, groups=min(config.batch.groups, 50 // config.batch.group_size))
    runtime = config.runtime
    if runtime.strategy == "deepspeed":  # which takes seconds to import on each rank; `test_zero.py` has unequal shares
        runtime = RuntimeConfig()
    wide = DIM * (config.model.wide_dim > 0)
    # The small network has no class token.
    pooling = "avg" if config.model.pooling in ("cls", "cls_avg") else config.model.pooling
    model = replace(config.model, backbone="small", weights="", dim=DIM, wide_dim=wide, pooling=pooling)
    model = replace(model, head_start="orthogonal")
    return replace(
        config,
        run_dir="",
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        checkpoint=CheckpointConfig(),
        batch=batch,
        runtime=runtime,
        model=model,
        views=replace(config.views, size=PIXELS, resize=PIXELS, cached=0),
        proxies=replace(config.proxies, count=20),
        train=replace(config.train, precision={"auto": "fp32"}.get(config.train.precision, config.train.precision)),
        dada=replace(config.dada, domain_hidden=8, category_hidden=[8]),
        warm_up=replace(config.warm_up, epochs=0),
    )


_NAMES = {repr(shrunken(config)): name for name, config in CONFIGS.items()}
DIFFERENT = {name: shrunken(CONFIGS[name]) for name in _NAMES.values()}


def first_steps(world: World) -> dict[str, dict[str, float]]:
    """What is logged of one step of each configuration; of those that are shrunken to the same, once."""
    found = {}
    for name, config in DIFFERENT.items():
        learner = Learner(config, world, phases(config)[-1], CLASSES)
        shares, images, views = batch_shares(config, world.size), config.batch.images, config.views.count
        plan = random_plan(images, config.batch, seed=0, epoch=0)
        ids = torch.from_numpy(rank_rows(plan, shares, world.rank)[0].copy())
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (images, views, 3, PIXELS, PIXELS), dtype=torch.uint8, generator=generator)
        labels = ids % CLASSES if METHODS[config.train.method].batches == "classes" else None
        report = learner.step(Batch(0, ids, pixels[ids].flatten(0, 1), labels), 0, 10)
        found[name] = learner.describe(report)
        assert learner.skipped.take()[1] == 0, name
        learner.strategy.release()
    return found


def test_the_first_step_on_eight_ranks_is_that_of_one(tmp_path: Path) -> None:
    everyone: list[Any] = on_ranks(RANKS, tmp_path, first_steps)
    alone = first_steps(World())
    assert len(CONFIGS) >= 18 and {CONFIGS[name].train.method for name in alone} == {"plm", "stml", "dada"}
    for name, expected in alone.items():
        rounding = 2e-2 if CONFIGS[name].train.precision == "bf16" else 1e-4
        for found in everyone:
            assert found[name] == pytest.approx(expected, rel=rounding, abs=1e-6), name

"""A signal that one rank catches during a sweep: all ranks leave soon, whatever is left to each, and lose no shard."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import on_ranks
from dist_plm.config import Config, DataConfig, EvaluationConfig, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.distributed.preemption import Preempted, Preemption
from dist_plm.distributed.world import World
from dist_plm.index.embedding_pass import sweep
from dist_plm.telemetry.progress import Display
from tests.end_to_end.conftest import build_demo

SECONDS = 0.04  # a batch of one image; rank 0 has shards 0, 2 and 4, rank 1 has 1 and 3


def sweeps(world: World, shards: str, folder: Path) -> dict[str, Any]:
    """A sweep in which rank 1 is told to leave two images into its second shard, and then the rest of it."""
    preemption, seen, store = Preemption([]), [0], Store(shards, "train")

    def embed(views: Tensor) -> Tensor:
        seen[0] += len(views)
        time.sleep(SECONDS)
        if world.rank == 1 and seen[0] == store.shards[1].samples + 2:
            preemption.signal = int(signal.SIGUSR2)
        return views.float().mean(dim=(2, 3))

    config = Config(
        data=DataConfig(shards=shards, workers=1),
        views=ViewsConfig(size=16, resize=20),
        evaluation=EvaluationConfig(batch_size=1),
    )
    signalled, display, number = replace(world, preemption=preemption), Display(world), 0
    try:
        sweep(embed, store, folder, config=config, world=signalled, display=display, title="first")
    except Preempted as preempted:
        number = preempted.signal
    first, files = seen[0], sorted(path.name for path in (folder / "train").iterdir())
    world.barrier("all have looked")
    if world.health:
        world.health.caught = world.health.announced = 0
    seen[0], resumed = 0, replace(world, health=None)
    rows = sweep(embed, store, folder, config=config, world=resumed, display=display, title="second").whole()
    return {"signal": number, "first": first, "second": seen[0], "files": files, "rows": rows}


def test_all_leave_and_the_shards_stay(tmp_path: Path) -> None:
    shards = build_demo(tmp_path / "data", images=400)  # so that rank 0 has 3 s left when rank 1 is told
    ranks = on_ranks(2, tmp_path, sweeps, str(shards), tmp_path / "sweep")
    whole = sweeps(World(), str(shards), tmp_path / "whole")["rows"]
    assert [rank["signal"] for rank in ranks] == [signal.SIGUSR2, signal.SIGUSR2]
    samples = [shard.samples for shard in Store(shards, "train").shards]
    assert ranks[1]["first"] == samples[1] + 2  # at once
    assert ranks[0]["first"] < samples[0] + samples[2] + samples[4]  # within the seconds that it takes to hear of it
    assert ranks[0]["files"] == ranks[1]["files"] and f"ids_{samples[0]}_{samples[1]}.npy" in ranks[0]["files"]
    assert not any(name.endswith(".tmp") for name in ranks[0]["files"])
    done = [
        int(name.removesuffix(".npy").rpartition("_")[2]) for name in ranks[0]["files"] if name.endswith(".npy")
    ]  # ids_FIRST_COUNT.npy
    assert sum(rank["second"] for rank in ranks) == sum(samples) - sum(done)
    for rank in ranks:
        assert np.array_equal(rank["rows"], whole)
    assert torch.from_numpy(whole).isfinite().all()

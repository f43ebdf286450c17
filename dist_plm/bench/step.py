"""P1 to P3: what the method adds to a step, and what more ranks add to it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dist_plm.bench.ratios import Ratio, in_turns
from dist_plm.bench.setting import RATE, Setting
from dist_plm.config import Config
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.model import Encoder, Teacher
from dist_plm.parallel.compiled import compiled
from dist_plm.parallel.optimiser import build_updates
from dist_plm.parallel.side_stream import SideStream
from dist_plm.telemetry.parts import Stopwatch, watch
from dist_plm.training.learner import Learner

METHOD = ("neighbourhoods", "losses", "gather", "ema")
WARM_UP = 2


def overhead(setting: Setting) -> list[Ratio]:
    """P1 and P2 on a synthetic batch that lies on the device."""
    batch = setting.batch(setting.own_images)
    learner = setting.learner()
    full = _milliseconds(setting, lambda: learner.step(batch, 0, 10**6))
    plain = _milliseconds(setting, plain_step(setting, batch))
    over, under = in_turns(setting.repeats, full, plain)
    parts = [_parts(setting, learner, batch) for _ in range(setting.repeats)]
    shares = {name: sum(seconds.get(name, 0) for seconds, _ in parts) for seconds, _ in parts for name in seconds}
    largest = sorted(shares, key=lambda name: -shares[name])
    whole = sum(seconds for _, seconds in parts)
    note = ", ".join(f"{name} {100 * shares[name] / whole:.1f} %" for name in largest if shares[name])
    method = [1e3 * sum(seconds.get(name, 0) for name in METHOD) for seconds, _ in parts]
    return [
        Ratio("P1", over, under, "plain: student, momentum encoder, mean of z as loss, DDP, the same update; no EMA"),
        Ratio(
            "P2",
            method,
            [1e3 * seconds for _, seconds in parts],
            f"neighbourhoods, losses, gather, EMA; the whole: {note}",
        ),
    ]


def plain_step(setting: Setting, batch: Batch) -> Callable[[], None]:
    """A step of the same student and momentum encoder under DDP without the method: the loss is the mean of z."""
    config, world = setting.config, setting.world
    student = Encoder(config.model, seed=config.seed, all_reduce_sum=world.sum).to(world.device)
    student = student.to(memory_format=torch.channels_last)
    teacher: nn.Module = Teacher(student, config.model.momentum)
    backbone, head = student.backbone.parameters(), student.head_parameters()
    updates = build_updates(backbone, head, [], config.optimiser, method_lr_scale=1.0)
    updates.set_learning_rate(RATE)
    replica: nn.Module = DistributedDataParallel(student, gradient_as_bucket_view=True) if world.size > 1 else student
    if config.runtime.compile:
        replica, teacher = compiled(replica), compiled(teacher)
    autocast = setting.learner().strategy.autocast  # precision as configured
    side_stream = SideStream(world.device)

    def step() -> None:
        student.train()
        side_stream.follow()
        with autocast():
            z = replica(batch.views)
        with side_stream.work(), autocast():
            teacher(batch.views)
        side_stream.join()
        z.mean().backward()
        updates.network.step()
        updates.network.zero_grad()

    return step


def _milliseconds(setting: Setting, step: Callable[[], object]) -> Callable[[], float]:
    """Milliseconds of a step that has run before."""

    def several() -> None:
        for _ in range(setting.steps):
            step()

    for _ in range(WARM_UP):
        step()
    return lambda: 1e3 * setting.seconds(several) / setting.steps


def _parts(setting: Setting, learner: Learner, batch: Batch) -> tuple[dict[str, float], float]:
    """Seconds of the parts of a step, and of the whole."""
    stopwatch = Stopwatch(setting.world.device)
    watch(stopwatch)
    learner.step(batch, 0, 10**6)
    watch(None)
    return dict(stopwatch.seconds), stopwatch.whole


def scaling(setting: Setting) -> list[Ratio]:
    """P3: every rank with a batch as large as that of the configuration, against one rank alone with it."""
    world = setting.world
    if world.size == 1:
        return [Ratio("P3", note="one rank: start with torchrun --nproc_per_node W")]
    batch = setting.batch(setting.config.batch.images)
    together, one = setting.learner(_times(setting.config, world.size)), World(device=world.device)
    alone = setting.learner(world=one) if world.is_first else None
    count, over, under = setting.config.batch.images * setting.steps, [], []
    for _ in range(WARM_UP + setting.repeats):
        world.barrier("one rank alone")
        if alone:
            under.append(count / setting.seconds(lambda: _steps(setting, alone, batch)))
        world.barrier("all ranks")
        slowest = max(world.gather_objects(setting.seconds(lambda: _steps(setting, together, batch))))
        over.append(world.size * count / slowest)
    under = world.from_first(partial(list, under))
    note = "on GPUs" if setting.on_gpu else "the target is for GPUs: here ranks share the cores that one has alone"
    measured = slice(WARM_UP, None)
    return [Ratio("P3", over[measured], [world.size * rate for rate in under[measured]], note, applies=setting.on_gpu)]


def _steps(setting: Setting, learner: Learner, batch: Batch) -> None:
    for _ in range(setting.steps):
        learner.step(batch, 0, 10**6)


def _times(config: Config, ranks: int) -> Config:
    return replace(config, batch=replace(config.batch, groups=config.batch.groups * ranks))

"""P7 to P10: refresh, checkpoint, exit on a signal, resume."""

import gc
import os
import signal
import threading
import time
from dataclasses import replace
from itertools import count
from operator import sub
from statistics import median
from typing import Any

from dist_plm.bench.ratios import Ratio
from dist_plm.bench.setting import Setting, silent
from dist_plm.checkpoint.saver import Saver
from dist_plm.config import CheckpointConfig, Config, WarmUpConfig
from dist_plm.data.plan import plan_steps
from dist_plm.data.store import Store
from dist_plm.distributed.preemption import Preempted, Preemption
from dist_plm.methods import is_swept
from dist_plm.telemetry.parts import Stopwatch, watch
from dist_plm.training.opened_run import OpenedRun, open_run
from dist_plm.training.trainer import Trainer

BEFORE_SIGNAL = 2  # steps
NEVER = 10**9
FACTS: dict[str, Any] = {"position": {"epochs": 0, "batch": 1}}


class _Counting(Store):
    """Counts the images that are read."""

    images = 0

    def read(self, id: int) -> bytes:
        self.images += 1
        return super().read(id)


class _Epochs(Trainer):
    """Notes the seconds of every epoch, and those of its refresh; compares no networks, which would read images too."""

    def __init__(self, opened: OpenedRun) -> None:
        super().__init__(opened, silent(opened.world), greeting="", profile=False)
        self.epochs: list[tuple[float, float]] = []

    def _epoch(self) -> None:
        stopwatch = Stopwatch(self.world.device)
        watch(stopwatch)
        try:
            super()._epoch()
        finally:
            watch(None)
        self.epochs.append((stopwatch.seconds["sweep"], stopwatch.whole))

    def _evaluate(self, when: str, with_pixels: bool = False) -> None:
        pass


def refreshing(setting: Setting) -> list[Ratio]:
    """P7 and P13: epochs of a run on the data set; without the first of the process."""
    config = _run(setting, "refresh", epochs=1 + setting.runs)
    trainer = _Epochs(open_run(config, setting.world, force=False))
    trainer.run()
    sweeps, wholes = zip(*trainer.epochs[1:], strict=True)
    steps = plan_steps(len(trainer.store), config.batch)
    refresh = f"a refresh every {config.batch.refresh_epochs} epoch(s)" if is_swept(config) else "no refresh"
    note = f"{len(trainer.store)} images, {steps} steps an epoch; {refresh}"
    images = steps * config.batch.images
    whole, alone = ([images / duration for duration in seconds] for seconds in (wholes, map(sub, wholes, sweeps)))
    return [Ratio("P7", sweeps, wholes, note), Ratio("P13", whole, alone, "of the same epochs")]


def saving(setting: Setting) -> list[Ratio]:
    """P8: stall by a checkpoint, relative to a step."""
    learner, batch = setting.learner(), setting.batch(setting.own_images)
    folder = setting.scratch / "saves"
    saver = Saver(folder, setting.world, silent(setting.world), CheckpointConfig(keep=1))
    stalls, steps, writes, numbers = [], [], [], count()
    learner.step(batch, 0, NEVER)
    for _ in range(setting.repeats):
        steps.append(1e3 * setting.seconds(lambda: learner.step(batch, 0, NEVER)))
        began = time.perf_counter()
        stalls.append(1e3 * setting.seconds(lambda: saver.save(next(numbers), learner.state(), FACTS)))
        saver.finish()
        writes.append(time.perf_counter() - began)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
    return [Ratio("P8", stalls, steps, f"{size:.2f} GB, {median(writes):.2f} s to the disk")]


def leaving(setting: Setting) -> list[Ratio]:
    """P9 and P10: a run that is signalled and resumed; each repeat resumes the previous one."""
    config = _run(setting, "leave", epochs=3 * setting.runs)
    config = replace(config, data=replace(config.data, prefetch=1))  # so that few batches are in flight
    leaves, bounds, read, seconds = [], [], [], []
    for _ in range(setting.runs):
        with Preemption(["SIGTERM"]) as preemption:
            signalled = replace(setting, world=replace(setting.world, preemption=preemption))
            left, step, save = _signalled(config, signalled)
        gc.collect()  # a trainer holds the run's lock as long as it lives
        leaves.append(left)
        bounds.append(2 * step + save)
        resumed, took = _resumed(config, setting)
        gc.collect()
        read.append(resumed)
        seconds.append(took)
    flight = config.batch.images * (config.data.prefetch + 1)
    return [
        Ratio("P9", leaves, bounds, f"a step {median(bounds) - save:.2f} s twice, a save {save:.2f} s"),
        Ratio("P10", read, [flight] * len(read), f"{median(seconds):.2f} s to the end of the first step and its save"),
    ]


def _signalled(config: Config, setting: Setting) -> tuple[float, float, float]:
    """Seconds from a signal to the end of a run, those of one of its steps, and those of a save of it."""
    trainer = _Epochs(open_run(config, setting.world, force=False))
    sent: list[float] = []
    laps: list[float] = []
    thread = threading.Thread(target=_signal, args=(trainer, sent, laps), daemon=True)
    thread.start()
    try:
        trainer.run()
        raise RuntimeError("the run ended before the signal: the data set is too small")
    except Preempted:
        left = time.perf_counter() - sent[0]
    thread.join()
    saver = Saver(setting.scratch / "timed", setting.world, trainer.display, CheckpointConfig(keep=1))
    began = time.perf_counter()
    saver.save(trainer.at.step, trainer.learner.state(), FACTS)
    saver.finish()
    return left, median(laps), time.perf_counter() - began


def _signal(trainer: Trainer, sent: list[float], laps: list[float]) -> None:
    """Watch steps end, and send SIGTERM in the middle of one."""
    first, seen, began = trainer.at.step, trainer.at.step, time.perf_counter()
    while seen < first + 1 + BEFORE_SIGNAL:
        time.sleep(0.0005)
        if trainer.at.step > seen:
            now, seen = time.perf_counter(), trainer.at.step
            if seen > first + 1:  # before the first lies the start
                laps.append(now - began)
            began = now
    time.sleep(median(laps) / 2)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGTERM)


def _resumed(config: Config, setting: Setting) -> tuple[int, float]:
    """Images that a run reads to take one more step, and the seconds it takes."""
    began = time.perf_counter()
    opened = open_run(config, setting.world, force=False)
    one_more = replace(config, train=replace(config.train, max_steps=opened.at.step + 1))
    counting = _Counting(config.data.shards, config.data.train_split)
    _Epochs(replace(opened, config=one_more, store=counting)).run()
    return counting.images, time.perf_counter() - began


def _run(setting: Setting, name: str, epochs: int) -> Config:
    """A run that only trains and refreshes."""
    config = setting.config
    return replace(
        config,
        run_dir=str(setting.scratch / name),
        data=replace(config.data, shards=str(setting.drawn), test_split="", decoded_side=0),
        warm_up=WarmUpConfig(),
        train=replace(config.train, epochs=epochs, max_steps=0, report=False, wandb=""),
        checkpoint=CheckpointConfig(every_steps=NEVER, keep=1, keep_best="none"),
    )

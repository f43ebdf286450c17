"""The run: phases of epochs of steps, from wherever the newest checkpoint left it."""

import json
from dataclasses import asdict

import numpy as np
import torch

from dist_plm import __version__
from dist_plm.config import Config
from dist_plm.data.loader import Loader, to_device
from dist_plm.data.plan import rank_rows
from dist_plm.data.store import Store
from dist_plm.errors import RunFailure, UserError
from dist_plm.evaluation.protocol import evaluate, raw_pixels
from dist_plm.index.gallery import digest
from dist_plm.learner import Learner, Phase, Report, batch_norm_warning, collapse_warning, phases
from dist_plm.planner import Planner, Position
from dist_plm.run_directory import RunDirectory
from dist_plm.runtime import checkpoint
from dist_plm.runtime.atomic import replacing
from dist_plm.runtime.metrics import Metrics
from dist_plm.runtime.preemption import Preemption
from dist_plm.runtime.progress import Clock, Display
from dist_plm.runtime.saver import Saver
from dist_plm.runtime.world import World


class Preempted(Exception):
    """A signal was agreed on and the run is saved."""


class Trainer:
    """One run of a configuration on this rank.

    Args:
        greeting: Said when nothing that a person got wrong can stop the run any more.
    """

    def __init__(
        self, config: Config, world: World, display: Display, preemption: Preemption, *, greeting: str
    ) -> None:
        self.config, self.world, self.display, self.preemption = config, world, display, preemption
        self.greeting = greeting
        self.directory = RunDirectory(config)
        self.store = Store(config.data.shards, config.data.train_split)
        self.phases = phases(config)
        self.found = checkpoint.find(self.directory.checkpoints, world)
        if self.found and self.found.summary["data"] != self.store.fingerprint:
            raise UserError(
                f"{self.found.path} was trained on other images than {config.data.shards} holds "
                "(fingerprints differ): name that data set, or another --run_dir"
            )
        self.at = Position(**self.found.summary["position"]) if self.found else Position()

    def run(self) -> None:
        """Train what is left.

        Raises:
            Preempted: a signal arrived; the run is saved and the same command goes on.
        """
        if self.found and self._stopped and self.directory.ended:
            self.display.say(f"{self.directory.path} is finished at step {self.at.step}")
            return
        self._open()
        try:
            self._phases()
        except RunFailure as failure:
            self.metrics.write("failure", step=self.at.step, message=str(failure))
            raise
        self.saver.finish()
        self.metrics.write("end", step=self.at.step)
        self.metrics.close()

    @property
    def phase(self) -> Phase:
        return self.phases[self.at.phase]

    @property
    def _stopped(self) -> bool:
        last = self.at.phase + 1 == len(self.phases) and self.at.epoch == self.phase.epochs
        return last or 0 < self.config.train.max_steps <= self.at.step

    def _open(self) -> None:
        """Create the run's folder or go on from its newest checkpoint."""
        # First, since weights of another network show here: a wrong run leaves no folder behind.
        self.learner = Learner(self.config, self.world, self.phase)
        self.directory.create(self.world)
        self.display.say(self.greeting)
        self.metrics = Metrics(self.directory.path, self.world, self.at.metrics_bytes)
        self.saver = Saver(self.directory.checkpoints, self.world, self.display, keep=self.config.checkpoint.keep)
        self.planner = Planner(self.config, self.store, self.directory, self.world, self.display, self.metrics)
        if warning := batch_norm_warning(self.learner):
            self.display.say(f"warning: {warning}")
        if self.found:
            for fault in self.found.rejected:
                self.display.say(f"warning: passed over a broken checkpoint: {fault}")
            checkpoint.load(self.found.path, self.learner.state())
            self.metrics.write("resumed", step=self.at.step, world_size=self.world.size)
            self.display.say(f"resumed from {self.found.path}")

    def _phases(self) -> None:
        """All phases; evaluated at the start, at the end of each, and every few epochs between."""
        if not self.found:
            self._judge("start", with_pixels=self.config.evaluation.raw_pixels)
        while True:
            while not self._stopped and self.at.epoch < self.phase.epochs:
                self._epoch()
            self._save()
            self._judge(f"end of {self.phase.name}")
            if self._stopped:
                return
            self._next_phase()

    def _epoch(self) -> None:
        """Sweep, plan, and take the epoch's steps."""
        at, config = self.at, self.config
        if at.batch == 0 < at.epoch and at.epoch % config.train.evaluate_epochs == 0:
            self._judge(f"epoch {at.epoch} of {self.phase.name}")
        plan = self.planner.plan(at, self.learner)
        steps, first = len(plan), at.batch
        loader = Loader(
            self.store,
            rank_rows(plan, self.world.rank, self.world.size),
            views=config.views,
            seed=config.seed,
            epoch=at.epochs,
            first_step=first,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            pin=self.world.device.type == "cuda",
        )
        title = f"{self.phase.name} epoch {at.epoch + 1}/{self.phase.epochs}"
        with self.display.phase(title, steps, "images", done=first) as bar:
            clock = Clock(lambda: loader.wait_seconds)
            for batch in loader:
                batch = to_device(batch, self.world.device)
                step = at.epoch * steps + at.batch
                report = self.learner.step(batch.views, step, self.phase.epochs * steps)
                at.batch, at.step = at.batch + 1, at.step + 1
                self.world.at(at.step)
                bar.advance(note=self._log(report, clock), scale=config.batch.images)
                if at.step % config.train.log_steps == 0 or at.batch == steps:
                    self._check_finite(plan)
                if at.batch == steps:
                    at.epoch, at.batch, at.epochs, at.plan = at.epoch + 1, 0, at.epochs + 1, ""
                self._boundary()
                if self._stopped:
                    break

    def _boundary(self) -> None:
        """Between two steps: leave if any rank was told to, save if it is time."""
        if signal := self.world.agree(self.preemption.signal):
            self._save()
            self.saver.finish()
            self.metrics.write("preempted", step=self.at.step, signal=signal)
            raise Preempted(f"signal {signal}: saved at step {self.at.step}; the same command goes on")
        if self.at.step % self.config.checkpoint.every_steps == 0:
            self._save()

    def _judge(self, when: str, with_pixels: bool = False) -> None:
        """Evaluate student and teacher."""
        learner, at = self.learner, self.at
        judged = {"student": (learner.embed_with(learner.student), digest(learner.student)),
                  "teacher": (learner.embed_with(learner.teacher), digest(learner.teacher))}  # fmt: skip
        if with_pixels:
            judged = {"raw pixels": (raw_pixels, "pixels")} | judged
        for name, (embed, weights) in judged.items():
            folder = self.directory.sweep(weights)
            result = evaluate(embed, folder, config=self.config, world=self.world, display=self.display)
            if result is None:
                self.display.say("no test split with labels: nothing to evaluate")
                return
            self.metrics.write("eval", step=at.step, epoch=at.epochs, model=name, when=when, **result)
            recall = "  ".join(f"R@{k} {100 * share:5.2f}" for k, share in result["recall"].items())
            self.display.say(f"{when:>20}  {name:<10}  {recall}  MAP@R {100 * result['map_at_r']:5.2f}")

    def _log(self, report: Report, clock: Clock) -> str:
        """Every `log_steps` a line of metrics, the same for any number of ranks but for the times; returns a note."""
        at = self.at
        clock.steps += 1
        if at.step % self.config.train.log_steps:
            return clock.note
        values = self.learner.describe(report)
        times = clock.lap(self.config.batch.images)
        self.metrics.write(
            "step", step=at.step, epoch=at.epochs, phase=self.phase.name, **values, lr=self.learner.rate, **times
        )
        if (warning := collapse_warning(values)) and not clock.warned:
            self.display.say(f"warning: {warning}")
            clock.warned = True
        losses = "  ".join(f"{n.replace('loss_', '')} {v:.4f}" for n, v in values.items() if n.startswith("loss"))
        clock.note = f"{losses}  waiting {100 * times['wait_share']:.0f} %"
        return clock.note

    def _check_finite(self, plan: np.ndarray) -> None:
        """Name the first void step since the last look, its ranks and its images; stop if so configured."""
        own, anywhere, first = self.learner.void.take()
        if not anywhere:
            return
        at, ranks = self.at, [rank for rank, count in enumerate(self.world.gather_objects(own)) if count]
        batch = first - at.epoch * len(plan)
        step = at.step - at.batch + batch + 1
        path = self.directory.path / f"non_finite_step_{step:08d}.json"
        if self.world.is_first:
            with replacing(path) as file:
                file.write(json.dumps({"step": step, "epoch": at.epochs, "ids": plan[batch].tolist()}).encode())
        message = (
            f"loss or gradient not finite at step {step} on rank {', '.join(map(str, ranks)) or 'none alone'} "
            f"({anywhere} step(s) left out); the images are in {path}"
        )
        self.metrics.write("non_finite", step=step, message=message)
        if self.config.train.non_finite == "stop":
            raise RunFailure(f"{message}. Lower optimiser.lr, or set --train.non_finite skip to train on without them")
        self.display.say(f"warning: {message}")

    def _next_phase(self) -> None:
        at = self.at
        at.phase, at.epoch, at.batch, at.plan, at.sweep = at.phase + 1, 0, 0, "", ""
        self.learner.enter(self.phase)

    def _save(self) -> None:
        self.at.metrics_bytes = self.metrics.position()
        summary = {
            "position": asdict(self.at),
            "data": self.store.fingerprint,
            "world_size": self.world.size,
            "versions": {"dist_plm": __version__, "torch": torch.__version__},
        }
        self.saver.save(self.at.step, self.learner.state(), summary)

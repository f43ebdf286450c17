"""The training loop: phases, epochs and steps, from the position of the newest checkpoint."""

from dataclasses import asdict, replace

import torch

from dist_plm import __version__
from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.retention import is_kept_for_good
from dist_plm.checkpoint.saver import Saver
from dist_plm.data.decoded import decode_once
from dist_plm.data.loader import Loader, to_device
from dist_plm.data.locality import near_shards, node_rows, node_shares
from dist_plm.data.plan import rank_rows
from dist_plm.data.store import Store
from dist_plm.distributed.preemption import Preempted
from dist_plm.distributed.shares import batch_shares
from dist_plm.distributed.world import RankFailure
from dist_plm.errors import RunFailure
from dist_plm.files.atomic import NO_ROOM
from dist_plm.index.embedding_pass import Embed, sweep
from dist_plm.index.rows import MappedRows
from dist_plm.model.digest import digest
from dist_plm.telemetry.metrics import Metrics
from dist_plm.telemetry.profile import Profiler
from dist_plm.telemetry.progress import Clock, Display, Horizon
from dist_plm.training.cached_views import CachedBatches, CachedViews
from dist_plm.training.context import RunContext, RunLog
from dist_plm.training.evaluator import Evaluator
from dist_plm.training.journal import Journal
from dist_plm.training.learner import Learner, Phase
from dist_plm.training.opened_run import OpenedRun
from dist_plm.training.phases import run_steps
from dist_plm.training.planner import Plan, Planner
from dist_plm.training.warnings import batch_norm_warning, start_warning


class Trainer:
    """One run on this rank. Its constructor creates the run directory, or restores the checkpoint to resume from.

    Args:
        opened: The run; nothing is written before the networks fit its checkpoint.
        greeting: Printed once all checks have passed.
        profile: Profile a few steps.

    Raises:
        UserError: The checkpoint has other networks, or the directory can't be written.
    """

    def __init__(self, opened: OpenedRun, display: Display, *, greeting: str, profile: bool) -> None:
        config, world = opened.config, opened.world
        self.opened, self.config, self.world, self.display = opened, config, world, display
        self.directory, self.phases, self.at = opened.directory, opened.phases, opened.at
        self.shares = batch_shares(config, world.size)
        # First, since it detects weights of another network: a wrong command then creates and changes no folder.
        self.learner = Learner(config, world, self.phase, len(opened.store.classes))
        if opened.resumed_from:
            state, path = self.learner.state(), opened.resumed_from.path
            world.together(lambda: checkpoint.check(path, state))  # before the collectives of the reading
            with world.waiting("reading of the checkpoint"):
                checkpoint.load(path, state)
            self.learner.restore(state)
        self.store = self._decoded(opened.store)
        self.directory.create(world)
        display.say(greeting)
        self.metrics = Metrics(self.directory.path, world, self.at.metrics_bytes)
        run = RunContext(config, world, self.store, self.directory, RunLog(display, self.metrics))
        self.journal = Journal(run, self.at)
        self.profiler = Profiler(self.directory.path, self.metrics, display, wanted=profile)
        self.saver = Saver(self.directory.checkpoints, world, display, config.checkpoint)
        self.views = CachedViews(config, self.learner, world, display) if config.views.cached else None
        self.planner, self.evaluator = Planner(run, self.views), Evaluator(run, self.views)
        self._introduce()

    def _decoded(self, store: Store) -> Store:
        """The training split, decoded in advance if configured."""
        if not self.config.data.decoded_side:
            return store
        try:
            return decode_once(store, config=self.config.data, world=self.world, display=self.display)
        except Preempted as preempted:
            raise Preempted(preempted.signal, "decoding stopped; rerun the command to resume") from None

    def _introduce(self) -> None:
        """Print the initial state of the run, with warnings."""
        if origin := getattr(self.learner.encoder.backbone, "origin", ""):
            self.display.say(str(origin))
        wandb = self.config.train.wandb
        for warning in (
            self.metrics.fault,
            self.metrics.add_wandb(wandb) if wandb else "",
            batch_norm_warning(self.learner),
            "" if self.opened.resumed_from else start_warning(self.learner),
        ):
            if warning:
                self.journal.warn(warning)
        if resumed_from := self.opened.resumed_from:
            self.world.at(self.at.step)
            self.journal.resumed(resumed_from.path, rejected=resumed_from.rejected)

    def run(self) -> None:
        """Train to the end.

        Raises:
            Preempted: A signal arrived; a checkpoint was saved if a step was taken.
            RunFailure: Training failed.
        """
        try:
            self._to_the_end()
        except RankFailure as failure:
            self.journal.failed(failure)
            raise
        except Exception as error:
            self.saver.join()  # the directory is unlocked next; with a dead rank this might not end
            if isinstance(error, RunFailure):
                self.journal.failed(error)
            if not isinstance(error, OSError) or error.errno not in NO_ROOM:
                raise
            full = RunFailure(
                f"{self.directory.path} can't be written at step {self.at.step} ({error.strerror}): free space, then "
                f"rerun the command; it {self.directory.resumes_at()}"
            )
            self.journal.failed(full)
            raise full from error

    def _to_the_end(self) -> None:
        try:
            self._phases()
        except Preempted as preempted:
            raise Preempted(preempted.signal, self._leave(preempted.signal)) from None
        self.profiler.close()
        self.saver.finish()
        self.metrics.write("end", step=self.at.step)
        self.metrics.close()

    @property
    def phase(self) -> Phase:
        return self.phases[self.at.phase]

    def _phases(self) -> None:
        """All phases, with an evaluation at the start, at the end of each, and every `train.evaluate_epochs`."""
        if self.views:
            self.views.fill(self.store)
        if not self.opened.resumed_from:
            self._start_heads()
            self._evaluate("start", with_pixels=self.config.evaluation.raw_pixels)
        self.horizon = Horizon(self.at.step, run_steps(self.config, len(self.store)))
        while True:
            while not self.opened.stopped and self.at.epoch < self.phase.epochs:
                self._epoch()
            self._save()
            self._evaluate(f"end of {self.phase.name}")
            if self.opened.stopped:
                return
            self._next_phase()

    def _start_heads(self) -> None:
        """Initialise the heads from the features of the training images, if configured."""

        def features(pooled: Embed) -> MappedRows:
            folder = self.directory.sweep(f"{digest(self.learner.encoder.backbone)}_pooled")
            swept = sweep(pooled, self.store, folder, config=self.config, world=self.world, display=self.display,
                          title="features for the heads",
                          source=self.views.source(self.store) if self.views else None)  # fmt: skip
            return MappedRows(swept, 0, len(swept), self.world.device)

        if self.config.model.head_start != "orthogonal":
            self.learner.start_heads(features)

    def _epoch(self) -> None:
        """Plan an epoch, and take its steps."""
        at, config = self.at, self.config
        if at.batch == 0 < at.epoch and at.epoch % config.train.evaluate_epochs == 0:
            self._evaluate(f"epoch {at.epoch} of {self.phase.name}")
        plan = self.planner.plan(at, self.learner)
        at.plan, at.sweep = plan.names["plan"], plan.names["sweep"]
        at.labels, at.nearest = plan.names["labels"], plan.names["nearest"]
        if config.batch.locality:
            plan = replace(plan, ids=near_shards(plan.ids, self.store, node_shares(self.shares, self.world)))
        steps, first = len(plan.ids), at.batch
        loader = self._loader(plan, first)
        title = f"{self.phase.name} epoch {at.epoch + 1}/{self.phase.epochs}"
        with self.display.phase(title, steps, "images", done=first) as bar:
            clock = Clock(lambda: loader.wait_seconds, self.world.device)
            for batch in loader:
                batch = to_device(batch, self.world.device)
                step = at.epoch * steps + at.batch
                report = self.learner.step(batch, step, self.phase.epochs * steps)
                self.profiler.step()
                at.batch, at.step = at.batch + 1, at.step + 1
                self.world.at(at.step)
                # At log steps over the CPU's group too, before any rank waits for its device: a rank that hangs is
                # named there, and not by NCCL's watchdog.
                logs = at.step % config.train.log_steps == 0
                signal = self.world.agree(self.world.signal) if report.leaving or logs else 0
                note = self.journal.step(self.learner, report, self.phase.name, plan.ids[at.batch - 1], clock)
                bar.advance(note=note, scale=config.batch.images, run_left=self.horizon.left(at.step))
                if logs or at.batch == steps:
                    self.journal.check_finite(self.learner, plan.ids)
                if at.batch == steps:
                    at.epoch, at.batch, at.epochs, at.plan = at.epoch + 1, 0, at.epochs + 1, ""
                self._boundary(signal)
                if self.opened.stopped:
                    break

    def _loader(self, plan: Plan, first: int) -> "Loader | CachedBatches":
        """The batches of the epoch from step `first` on."""
        config, rows = self.config, rank_rows(plan.ids, self.shares, self.world.rank)
        around = plan.nearest.around if plan.nearest else None
        if self.views:
            return self.views.batches(rows, plan.labels, around, epoch=self.at.epochs, first_step=first)
        return Loader(
            self.store,
            rows,
            node_rows=node_rows(plan.ids, self.shares, self.world),
            labels=plan.labels,
            around=around,
            views=config.views,
            seed=config.seed,
            epoch=self.at.epochs,
            first_step=first,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            pin=self.world.device.type == "cuda",
        )

    def _boundary(self, signal: int) -> None:
        """Between two steps: exit on a signal that all ranks agree on (0: none), save a checkpoint if one is due."""
        self.at.metrics_bytes = self.metrics.position()
        if signal:
            raise Preempted(signal)
        config, at = self.config.checkpoint, self.at
        if at.step % config.every_steps == 0 or is_kept_for_good(at.epochs, at.batch, config):
            self._save()

    def _leave(self, signal: int) -> str:
        """Save a checkpoint of the last step; an interrupted evaluation or embedding pass keeps its finished shards."""
        if self.at.step:  # nothing to save before the first step
            self._save()
            self.saver.finish()
        self.metrics.write("preempted", step=self.at.step, signal=signal)
        self.metrics.close()
        if not self.at.step:
            return "no step was taken yet, so no checkpoint was saved; rerun the command to start the run"
        return f"checkpoint saved at step {self.at.step}; rerun the command to resume"

    def _evaluate(self, when: str, with_pixels: bool = False) -> None:
        """Evaluate, and save a checkpoint if it is the best so far; none at the start."""
        score, at = self.evaluator.evaluate(self.learner, self.at, when, with_pixels=with_pixels), self.at
        if at.step and score and (score.value >= at.best or at.best_by not in ("", score.by)):
            self._save(best=True)  # state before the evaluation: a run resumed from here evaluates again
            at.best, at.best_by = score.value, score.by

    def _next_phase(self) -> None:
        at = self.at
        at.phase, at.epoch, at.batch, at.plan = at.phase + 1, 0, 0, ""
        at.sweep = at.labels = at.nearest = ""
        self.learner.enter(self.phase)

    def _save(self, *, best: bool = False) -> None:
        self.metrics.sync()
        summary = {
            "position": asdict(self.at),
            "data": self.store.fingerprint,
            "phases": [phase.name for phase in self.phases],
            "world_size": self.world.size,
            "versions": {"dist_plm": __version__, "torch": torch.__version__},
        }
        self.saver.save(self.at.step, self.learner.state(), summary, best=best)

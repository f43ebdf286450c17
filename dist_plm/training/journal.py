"""Log of a run: metrics.jsonl and logger backends, independent of the world size, and the terminal."""

import json
from contextlib import suppress

import numpy as np

from dist_plm.checkpoint.position import Position
from dist_plm.errors import RunFailure
from dist_plm.evaluation.live import batch_quality
from dist_plm.files.atomic import replacing
from dist_plm.telemetry.progress import Clock
from dist_plm.training.context import RunContext
from dist_plm.training.learner import Learner, Report
from dist_plm.training.warnings import collapse_warning


class Journal:
    """Writes the log of one run.

    Args:
        at: Position of the run; advanced by the trainer.
    """

    def __init__(self, run: RunContext, at: Position) -> None:
        self._run, self._at = run, at
        self._told_of_collapse = False  # once in each start of a run, not in each epoch

    def warn(self, text: str) -> None:
        """Print a warning and log it."""
        self._run.log.warn(text, self._at.step)

    def failed(self, failure: RunFailure) -> None:
        """Log the reason of a failure; the command prints it."""
        with suppress(OSError):  # on a full disk it can't be logged
            self._run.log.metrics.write("failure", step=self._at.step, message=str(failure))

    def resumed(self, path: object, *, rejected: list[str]) -> None:
        """Log where the run resumes, and newer checkpoints that were skipped."""
        for fault in rejected:
            self.warn(f"skipped a damaged checkpoint: {fault}")
        self._run.log.metrics.write("resumed", step=self._at.step, world_size=self._run.world.size)
        if self._run.directory.forced:
            self._run.log.metrics.write("forced", step=self._at.step, changed=self._run.directory.forced)
        self._run.log.display.say(f"resumed from {path}")

    def step(self, learner: Learner, report: Report, phase: str, ids: np.ndarray, clock: Clock) -> str:
        """Log metrics every `log_steps`; returns a note for the progress bar.

        Args:
            ids: int64 [groups, group_size], the images of the global batch.
        """
        at = self._at
        clock.steps += 1
        if at.step % self._run.config.train.log_steps:
            return clock.note
        values = learner.describe(report)
        labels = np.asarray(self._run.store.labels[ids.ravel()])
        values |= batch_quality(
            report.loss.targets, report.z, labels, shares=learner.shares, config=self._run.config, world=self._run.world
        )
        times = clock.lap(self._run.config.batch.images)
        self._run.log.metrics.write(
            "step", step=at.step, epoch=at.epochs, phase=phase, **values, lr=learner.rate, **times
        )
        warning = collapse_warning(values, phase, self._run.config.warm_up.epochs)
        if warning and not self._told_of_collapse:
            self.warn(warning)
            self._told_of_collapse = True
        losses = "  ".join(f"{n.replace('loss_', '')} {v:.4f}" for n, v in values.items() if n.startswith("loss"))
        clock.note = f"{losses}  waiting {100 * times['wait_share']:.0f} %"
        return clock.note

    def check_finite(self, learner: Learner, plan: np.ndarray) -> None:
        """Report the first skipped step since the last call, its ranks and its images. A collective.

        Args:
            plan: int64 [steps, groups, group_size], of the epoch.

        Raises:
            RunFailure: There was one and `train.non_finite` is stop.
        """
        rows, anywhere, first = learner.skipped.take()
        if not anywhere:
            return
        at, ranks = self._at, [rank for rank, count in enumerate(self._run.world.gather_objects(rows)) if count]
        batch = first - at.epoch * len(plan)
        step = at.step - at.batch + batch + 1
        path = self._run.directory.path / f"non_finite_step_{step:08d}.json"
        if self._run.world.is_first:
            with replacing(path) as file:
                file.write(json.dumps({"step": step, "epoch": at.epochs, "ids": plan[batch].tolist()}).encode())
        message = (
            f"loss or gradient not finite at step {step} on rank {', '.join(map(str, ranks)) or 'unknown'} "
            f"({anywhere} optimizer step(s) skipped); the images are listed in {path}"
        )
        self._run.log.metrics.write("non_finite", step=step, message=message)
        if self._run.config.train.non_finite == "stop":
            raise RunFailure(f"{message}. Lower optimiser.lr, or set --train.non_finite skip to continue without them")
        self._run.log.display.say(f"warning: {message}")

"""Requeueing of jobs: limit, and the reason of each restart in the run's metrics.jsonl."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import submitit

from dist_plm.files.atomic import replacing
from dist_plm.slurm import scheduler

SLACK_SECONDS = 60.0  # Slurm checks limits every 30 s, and may signal that much early


class Restarts:
    """The attempts of one job, counted by Slurm, or by a file for the local executor.

    Args:
        environment: Of this task.
        run: The run directory; None if there is none.
        most: How often the job may be requeued.
        notice_seconds: Time before the limit at which the job is signalled.
    """

    def __init__(
        self, environment: submitit.JobEnvironment, run: Path | None, *, most: int, notice_seconds: int
    ) -> None:
        self.environment, self.run, self.most, self.notice_seconds = environment, run, most, notice_seconds
        self._note = environment.paths.folder / f"{environment.raw_job_id}.note"
        note = self._read()
        counted = os.environ.get("SLURM_RESTART_COUNT", 0) if self.is_on_slurm else note.get("restart", 0)
        self.number = int(counted)
        self._reason = note.get("reason", "") if note.get("restart") == self.number else ""

    @property
    def is_on_slurm(self) -> bool:
        return self.environment.cluster == "slurm"

    @property
    def is_first_rank(self) -> bool:
        return self.environment.global_rank == 0

    def begin(self) -> bool:
        """Log the restart and its reason on rank 0; False on all ranks if the limit is exceeded."""
        within = self.number <= self.most
        if self.number and self.is_first_rank:
            reason = self._reason or self._ask()
            allowed = f" of at most {self.most}" if within else f", one more than the {self.most} allowed"
            print(f"restart {self.number}{allowed}: {reason}", file=sys.stderr, flush=True)
            self._write("requeued", restart=self.number, reason=reason, job=self.environment.job_id)
            if not within:
                self._give_up()
        return within

    def again(self) -> None:
        """Requeue the job, from rank 0; returns if no restart is left.

        Raises:
            subprocess.CalledProcessError: Slurm refuses.
        """
        if self.number >= self.most:
            self._give_up()
            return
        with replacing(self._note) as file:
            file.write(json.dumps({"restart": self.number + 1, "reason": self._told()}).encode())
        self.environment._requeue(self.most - self.number)

    def _told(self) -> str:
        """The reason of the signal: the time limit or a preemption."""
        if not self.is_on_slurm:
            return "time limit"
        left = scheduler.seconds_left(self.environment.job_id)
        return "time limit" if left <= self.notice_seconds + SLACK_SECONDS else "preempted"

    def _ask(self) -> str:
        end = scheduler.end_of_attempt(self.environment.job_id, self.number - 1)
        known = {"NODE_FAIL": "node failure", "PREEMPTED": "preempted", "REQUEUED": "requeued by Slurm or a user"}
        return f"{known.get(end, end.lower()) or 'requeued by Slurm or a user'}, without notice"

    def _give_up(self) -> None:
        message = f"requeued {self.number} times, --max-restarts is {self.most}: submit it again to resume"
        print(f"error: {message}", file=sys.stderr, flush=True)
        self._write("failure", message=message)

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._note.read_bytes())) if self._note.exists() else {}

    def _write(self, event: str, **values: Any) -> None:
        if self.run is None:
            return
        with open(self.run / "metrics.jsonl", "a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                # A killed run may have left an incomplete line.
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(json.dumps({"event": event, **values}).encode() + b"\n")

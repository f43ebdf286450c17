"""Runs of dist_plm.train whose ranks torchrun's own agent starts, forked from a process that has imported everything.

A start takes a second of CPU time a rank, not seven, so that a hundred of them can be killed.
"""

import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from glob import glob
from pathlib import Path

import torch

from benchmarks.common import events, family, fork, lives
from dist_plm import train
from dist_plm.cli import run_command

SHARDS = 5  # of a split, as build_demo cuts it
PATIENCE_SECONDS = 400.0


class Start:
    """The command of a run under way on `ranks` ranks."""

    def __init__(self, ranks: int, config: Path, run: Path, *arguments: str) -> None:
        self.run, self.began = run, time.time()
        line = ["--config", str(config), "--run_dir", str(run), *arguments]
        self._launcher = fork(_launch, ranks, line, str(run.with_suffix(".log")))

    @property
    def status(self) -> int | None:
        return self._launcher.exitcode

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Until something happens or the command ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.status is None and not until():
            if time.monotonic() > deadline:
                self.kill("all ranks", random.Random(0))
                raise SystemExit(f"{self.run} hangs; see {self.run.with_suffix('.log')}")
            time.sleep(0.005)

    def kill(self, victim: str, chance: random.Random) -> None:
        """SIGKILL; what is left must then end by itself, and soon."""
        launcher, *ranks = everyone = family(int(self._launcher.pid or 0))
        chosen = {"all ranks": everyone, "one rank": [chance.choice(ranks or [launcher])], "the launcher": [launcher]}
        for process in chosen[victim]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := [process for process in everyone if lives(process)]:
            if time.monotonic() > deadline:
                for process in left:
                    os.kill(process, signal.SIGKILL)
                raise SystemExit(f"{self.run}: {len(left)} processes outlived the death of {victim}")
            time.sleep(0.01)
        self._launcher.join()

    def phase(self) -> str:
        """What the run is doing or was killed at, by the newest trace that it left since it was started."""
        traces = _traces(self.run)
        newest = max(traces, key=lambda path: traces[path], default=self.run)
        if traces.get(newest, 0.0) < self.began:
            return "start-up"
        if any(path.suffix == ".tmp" and traces[path] >= self.began for path in traces):
            return "save"
        if newest.parent.parent.name == "sweeps":
            whole = not glob(f"{newest}/.*.tmp") and len(glob(f"{newest}/*.npy")) == SHARDS
            return "evaluation" if newest.name == "test" else "plan" if whole else "sweep"
        last = events(self.run)[-1:]
        after = {"eval": "evaluation", "sweep": "plan", "end": "end"}
        return after.get(last[0]["event"], "step") if last and newest.name == "metrics.jsonl" else "step"


def _traces(run: Path) -> dict[Path, float]:
    """When each trace was last written. Folders come and go meanwhile, which pathlib's glob does not forgive."""
    traces = {}
    for path in (f"{run}/metrics.jsonl", f"{run}/plans", *glob(f"{run}/sweeps/*/*"), *glob(f"{run}/checkpoints/*")):
        with suppress(FileNotFoundError):
            traces[Path(path)] = os.stat(path).st_mtime
    return traces


def _launch(ranks: int, line: list[str], log: str) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=str(uuid.uuid4()), rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0, monitor_interval=0.1,
    )  # fmt: skip
    elastic_launch(config, _rank)(line)


def _close_sockets() -> None:
    """Those of the launcher, whose store would seem to live on when it is dead. Those of torchrun are not inherited."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(link).startswith(("socket:", "anon_inode:")):
                os.close(int(link.name))


def _rank(line: list[str]) -> None:
    # Processes that multiprocessing starts get SIGINT when their parent dies. Those of torchrun do not.
    torch.multiprocessing._prctl_pr_set_pdeathsig(0)  # type: ignore[attr-defined]
    _close_sockets()
    sys.argv, launcher = ["train", *line], os.getppid()
    try:
        run_command(train.main)
    except SystemExit as end:
        if end.code or os.getppid() != launcher:  # on return a rank waits for its launcher to take the result
            os._exit(int(end.code or 0))

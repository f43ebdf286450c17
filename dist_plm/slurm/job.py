"""What each task of a job does. A task is a rank: there is no torchrun, and the commands see env:// variables alone.

Told by SIGUSR2 (preemption, time limit), all ranks save at a step that they agree on and leave with status 75; then the
first one has the job requeued. SIGTERM saves too, but nothing is requeued: Slurm sends it when it requeues by itself,
and when a person cancels. submitit's own handlers would requeue at once from one rank, in the middle of a step.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import submitit
from submitit.helpers import TorchDistributedEnvironment

from dist_plm.cli import run_command
from dist_plm.distributed.preemption import PREEMPTED
from dist_plm.errors import RunFailure
from dist_plm.slurm import events
from dist_plm.slurm.restarts import Restarts


@dataclass(frozen=True)
class TrainJob:
    """A run of `python -m dist_plm.train`.

    Args:
        arguments: Of the command.
        run_dir: The run directory, absolute.
        max_restarts: How often the job may come back.
        notice_seconds: How long before the time limit it is told.
    """

    arguments: list[str]
    run_dir: str
    max_restarts: int
    notice_seconds: int

    def __call__(self) -> int:
        """Train on this rank; returns 0, or leaves with the command's status."""
        restarts = _begin(self, Path(self.run_dir))

        def command() -> int:
            _export(restarts.environment)
            from dist_plm.train import main

            sys.argv = ["train", *self.arguments]
            return main()

        status = _status(command)
        for number in (signal.SIGUSR2, signal.SIGTERM):  # the end is near in any case, and nothing is left to save
            signal.signal(number, signal.SIG_IGN)
        if status == PREEMPTED and not restarts.is_first_rank:
            return 0  # another status would have Slurm kill the first rank before it has asked for the next go
        if status == PREEMPTED and events.last(Path(self.run_dir), "preempted").get("signal") == signal.SIGUSR2:
            restarts.again()
        if status:
            sys.exit(status)
        return 0


@dataclass(frozen=True)
class ShardsJob:
    """A part of `python shards/build.py`, or the step that binds the parts. Finished shards are found again.

    Args:
        arguments: Of the command.
        max_restarts: How often the job may come back.
        notice_seconds: How long before the time limit it is told.
    """

    arguments: list[str]
    max_restarts: int
    notice_seconds: int

    def __call__(self) -> int:
        """Build; returns 0, or leaves with the command's status."""
        _begin(self, None)
        from dist_plm.datasets.build import main

        if status := main(self.arguments):
            sys.exit(status)
        return 0


def _begin(job: TrainJob | ShardsJob, run: Path | None) -> Restarts:
    """Take the signals over from submitit, and count this go."""
    environment = submitit.JobEnvironment()
    # The go before may have left the error of a rank whose peer was killed.
    environment.paths.result_pickle.unlink(missing_ok=True)
    restarts = Restarts(environment, run, most=job.max_restarts, notice_seconds=job.notice_seconds)

    def told(_: int, __: FrameType | None) -> None:
        """Before the command listens to signals nothing is to be saved."""
        if restarts.is_first_rank:
            restarts.again()
            os._exit(PREEMPTED)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, told)
    if not restarts.begin():
        # At the failure of another rank, Slurm kills the first before it has said why.
        sys.exit(1 if restarts.is_first_rank else 0)
    return restarts


def _export(environment: submitit.JobEnvironment) -> None:
    """The variables of env://, as torchrun sets them. All GPUs of the node stay visible: a rank takes its LOCAL_RANK.

    Raises:
        RunFailure: the name of the first node means nothing here.
    """
    found = TorchDistributedEnvironment()
    found.export(set_cuda_visible_devices=False, overwrite=True)
    if environment.cluster == "local":
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)
    except OSError as error:  # torch would try for minutes
        raise RunFailure(f"{socket.gethostname()} can't find the first node {found.master_addr}: {error}") from error


def _status(command: Callable[[], int]) -> int:
    """The exit status that `run_command` would leave with."""
    try:
        run_command(command)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)

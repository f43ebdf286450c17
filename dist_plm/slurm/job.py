"""The code of a job's tasks. A task is a rank: without torchrun, commands get the env:// variables.

On SIGUSR2 (preemption, time limit) all ranks save a checkpoint at the same step and exit with status 75; then rank 0
requeues the job. SIGTERM saves too, without requeueing: Slurm sends it when it requeues by itself, and on scancel.
submitit's own handlers would requeue at once from one rank, in the middle of a step.
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
from dist_plm.slurm.restarts import Restarts
from dist_plm.telemetry import events


@dataclass(frozen=True)
class TrainJob:
    """A run of `python -m dist_plm.train`.

    Args:
        arguments: Of the command.
        run_dir: The run directory, absolute.
        max_restarts: How often the job may be requeued.
        notice_seconds: Time before the limit at which it is signalled.
    """

    arguments: list[str]
    run_dir: str
    max_restarts: int
    notice_seconds: int

    def __call__(self) -> int:
        """Train on this rank; returns 0, or exits with the command's status."""
        restarts = _begin(self, Path(self.run_dir))

        def command() -> int:
            _export(restarts.environment)
            from dist_plm.train import main

            sys.argv = ["train", *self.arguments]
            return main()

        status = _status(command)
        for number in (signal.SIGUSR2, signal.SIGTERM):  # the task is about to end, and nothing is left to save
            signal.signal(number, signal.SIG_IGN)
        if status == PREEMPTED and not restarts.is_first_rank:
            return 0  # with another status Slurm would kill rank 0 before it has requeued the job
        if status == PREEMPTED and events.last(Path(self.run_dir), "preempted").get("signal") == signal.SIGUSR2:
            restarts.again()
        if status:
            sys.exit(status)
        return 0


@dataclass(frozen=True)
class ShardsJob:
    """A part of `python shards/build.py`, or the final step. Finished shards are reused.

    Args:
        arguments: Of the command.
        max_restarts: How often the job may be requeued.
        notice_seconds: Time before the limit at which it is signalled.
    """

    arguments: list[str]
    max_restarts: int
    notice_seconds: int

    def __call__(self) -> int:
        """Build; returns 0, or exits with the command's status."""
        _begin(self, None)
        from dist_plm.datasets.build import main

        if status := main(self.arguments):
            sys.exit(status)
        return 0


def _begin(job: TrainJob | ShardsJob, run: Path | None) -> Restarts:
    """Replace submitit's signal handlers, and count this attempt."""
    environment = submitit.JobEnvironment()
    # The previous attempt may have left an error file of a rank whose peer was killed.
    environment.paths.result_pickle.unlink(missing_ok=True)
    restarts = Restarts(environment, run, most=job.max_restarts, notice_seconds=job.notice_seconds)

    def on_notice(_: int, __: FrameType | None) -> None:
        """Before the command handles signals there is nothing to save."""
        if restarts.is_first_rank:
            restarts.again()
            os._exit(PREEMPTED)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, on_notice)
    if not restarts.begin():
        # When another rank fails, Slurm kills rank 0 before it has printed the reason.
        sys.exit(1 if restarts.is_first_rank else 0)
    return restarts


def _export(environment: submitit.JobEnvironment) -> None:
    """The variables of env://, as torchrun sets them. All GPUs of the node stay visible: a rank uses its LOCAL_RANK.

    Raises:
        RunFailure: The name of the first node can't be resolved.
    """
    torch_environment = TorchDistributedEnvironment()
    torch_environment.export(set_cuda_visible_devices=False, overwrite=True)
    if environment.cluster == "local":
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)
    except OSError as error:  # torch would retry for minutes
        raise RunFailure(
            f"{socket.gethostname()} can't resolve the first node {torch_environment.master_addr}: {error}"
        ) from error


def _status(command: Callable[[], int]) -> int:
    """The exit status of `run_command`."""
    try:
        run_command(command)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)

"""Submits checked requests to the queue, or runs them locally."""

import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from dist_plm.errors import UserError
from dist_plm.slurm import record, script, snapshot, sweep
from dist_plm.slurm.cluster import Cluster
from dist_plm.slurm.job import ShardsJob, TrainJob

Job = submitit.Job[int]
RELAY_SECONDS = 0.5  # polling interval of the logs of local jobs


def train(runs: Sequence[sweep.SweepRun], base: Path, cluster: Cluster, *, local: bool) -> list[Job]:
    """Submit the runs, several as a job array.

    Args:
        base: The run directory, or the folder of the sweep.

    Raises:
        UserError: A run already has a job, a folder can't be written, or Slurm refuses.
    """
    _refuse_active([run.path for run in runs])
    work = [TrainJob(run.arguments, str(run.path), cluster.max_restarts, cluster.notice_seconds) for run in runs]
    with _folder(base) as folder:
        if runs[0].values:
            sweep.save(folder, list(runs))
        jobs = _submit(work, folder, cluster, name=base.name, local=local)
        _note([run.path for run in runs], jobs, folder)
    return jobs


def shards(arguments: list[str], out: Path, parts: int, cluster: Cluster, *, local: bool) -> list[Job]:
    """Submit the parts of a data set, and last the job that completes it."""
    base = out.with_name(f"{out.name}.jobs")
    _refuse_active([base])
    limits = (cluster.max_restarts, cluster.notice_seconds)
    work = [ShardsJob([*arguments, "--part", f"{part}/{parts}"], *limits) for part in range(1, parts + 1)]
    with _folder(base) as folder:
        jobs = _submit(work, folder, cluster, name=f"{out.name}-part", local=local)
        if local:
            wait(jobs)
        after = {"dependency": f"afterok:{jobs[0].job_id.partition('_')[0]}"}
        jobs += _submit([ShardsJob(arguments, *limits)], folder, cluster, name=f"{out.name}-bind", local=local, **after)
        _note([base], jobs[-1:], folder)
    return jobs


def wait(jobs: Sequence[Job]) -> bool:
    """Wait for local jobs and relay the logs of their rank 0; returns whether all succeeded."""
    printed = dict.fromkeys(jobs, 0)
    running = True
    while running:
        running = not all(job.done() for job in jobs)  # before relaying, so that the end of a log is not missed
        for job in jobs:
            printed[job] = _relay(job, printed[job], f"[{job.job_id}] " if len(jobs) > 1 else "")
        time.sleep(RELAY_SECONDS if running else 0)
    return all(path.exists() for job in jobs for path in _results(job))


def _relay(job: Job, start: int, prefix: str) -> int:
    """Copy the complete lines of rank 0's log from byte `start` on to stderr; returns their end."""
    log = job.task(0).paths.stderr
    if not log.exists():
        return start
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().rpartition(b"\n")
    for line in lines[0].decode(errors="replace").splitlines():
        print(f"{prefix}{line}", file=sys.stderr)
    return start + len(lines[0]) + len(lines[1])


def _results(job: Job) -> list[Path]:
    return [job.task(rank).paths.result_pickle for rank in range(job.num_tasks)]


def _submit(
    work: Sequence[Callable[[], int]], folder: Path, cluster: Cluster, *, name: str, local: bool, **extra: Any
) -> list[Job]:
    code = snapshot.take(folder)
    if local:
        return _start(work, folder, cluster, code)
    executor = submitit.SlurmExecutor(folder, python=script.python(cluster))
    asked = script.parameters(cluster, name=name, folder=folder, code=code, token=_token(folder / script.TOKEN))
    executor.update_parameters(**asked, **extra)
    try:
        with executor.batch():
            return [executor.submit(task) for task in work]
    except (FailedJobError, FailedSubmissionError) as error:
        said = re.findall(r"sbatch: error: (.+)", str(error)) or str(error).splitlines()[-1:]
        raise UserError(f"sbatch refuses: {'; '.join(dict.fromkeys(said))}") from error


def _token(path: Path) -> str:
    """A token by which a node checks that it sees this folder; an existing one is kept for pending jobs."""
    token = path.read_text(errors="replace") if path.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{16}", token):  # the folder is untrusted
        token = secrets.token_hex(8)
        path.write_text(token)
    return token


def _start(work: Sequence[Callable[[], int]], folder: Path, cluster: Cluster, code: Path) -> list[Job]:
    """Run the callables concurrently in processes of this machine."""
    os.environ |= {"PYTHONPATH": f"{code}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "PYTHONSAFEPATH": "1"}
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=cluster.minutes,
        tasks_per_node=cluster.ranks,
        gpus_per_node=cluster.gpus_per_node,
        signal_delay_s=cluster.notice_seconds,
    )
    return [executor.submit(task) for task in work]


@contextmanager
def _folder(base: Path) -> Iterator[Path]:
    """Create `base`/launch for scripts and logs; removed again if the submission fails."""
    existing = next(path for path in (base, *base.parents) if path.exists())
    folder = base / record.FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}): choose another folder") from error
    try:
        yield folder
    except UserError:
        if existing != base:
            shutil.rmtree(existing / base.relative_to(existing).parts[0])
        raise


def _note(paths: Sequence[Path], jobs: Sequence[Job], folder: Path) -> None:
    now, commit = datetime.now(UTC).isoformat(timespec="seconds"), snapshot.commit()
    for path, job in zip(paths, jobs, strict=True):
        where = "slurm" if isinstance(job, submitit.SlurmJob) else "local"
        record.Record(job.job_id, where, str(folder), commit, sys.argv, now).save(path)


def _refuse_active(paths: Sequence[Path]) -> None:
    for path in paths:
        entry = record.load(path)
        if entry and entry.is_active:
            raise UserError(f"{path} already has job {entry.job}: wait for it, or `scancel {entry.job}` first")

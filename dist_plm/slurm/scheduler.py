"""Queries to Slurm: resources, state of jobs, reasons of restarts."""

import re
import shutil
import subprocess
from dataclasses import replace
from typing import NamedTuple

from dist_plm.errors import UserError
from dist_plm.slurm.cluster import Cluster, seconds

ANSWER_SECONDS = 60.0


class Partition(NamedTuple):
    """Nodes of one kind in a partition."""

    partition: str
    default: bool
    nodes: int
    gpus: int
    cpus: int
    limit: str


def require_slurm() -> None:
    """Raise a UserError if there is no Slurm."""
    if missing := [name for name in ("sbatch", "srun", "sinfo") if not shutil.which(name)]:
        raise UserError(
            f"no {missing[0]} on the PATH: run this on a login node of the cluster, perhaps after `module load slurm`. "
            "Without a cluster, use --local to run the job here, or --dry-run to print it"
        )


def responds() -> bool:
    """Whether there is a Slurm that answers."""
    return bool(_ask("sinfo", "-h"))


def check_request(cluster: Cluster) -> None:
    """Raise a UserError for a request that Slurm would refuse or never start."""
    rows = _rows()
    if cluster.partition:
        for name in cluster.partition.split(","):
            if name not in {row.partition for row in rows}:
                known = ", ".join(sorted({row.partition for row in rows}))
                raise UserError(f"--partition {name} does not exist: this cluster has {known}")
        rows = [row for row in rows if row.partition in cluster.partition.split(",")]
    else:
        rows = [row for row in rows if row.default] or rows
    where = f"partition {cluster.partition or rows[0].partition}"
    gpus = max(row.gpus for row in rows)
    if cluster.gpus_per_node > gpus:
        raise UserError(f"--gpus-per-node {cluster.gpus_per_node}: no node of {where} has more than {gpus}")
    cores = max(1, cluster.cpus_per_task) * cluster.ranks_per_node
    if cores > (most := max(row.cpus for row in rows)):
        raise UserError(
            f"{cluster.ranks_per_node} ranks x {max(1, cluster.cpus_per_task)} cores: no node of {where} has more than "
            f"{most} cores; lower --cpus-per-task or the ranks per node"
        )
    nodes = sum(row.nodes for row in rows if row.gpus >= cluster.gpus_per_node and row.cpus >= cores)
    if cluster.nodes > nodes:
        raise UserError(f"--nodes {cluster.nodes}: {where} has {nodes} such nodes")
    limits = [row.limit for row in rows]
    if all(limit[0].isdigit() and seconds(limit) < 60 * cluster.minutes for limit in limits):
        raise UserError(f"--time {cluster.time}: the limit of {where} is {limits[0]}; a run is requeued after it")


def with_cores(cluster: Cluster) -> Cluster:
    """The same with the GPU's share of the node's cores, if the number of cores was not set.

    Slurm's default is one core per task, which decoding and the step would share.
    """
    if cluster.cpus_per_task or not cluster.gpus_per_node:
        return cluster
    names = cluster.partition.split(",") if cluster.partition else []
    rows = [row for row in _rows() if row.gpus >= cluster.gpus_per_node and (row.partition in names or not names)]
    if not rows:
        return cluster
    share = min(row.cpus * cluster.gpus_per_node // row.gpus for row in rows) // cluster.ranks_per_node
    return replace(cluster, cpus_per_task=max(1, share))


def state(job: str) -> str:
    """Slurm's state of a job, such as RUNNING or COMPLETED; empty if unknown to queue and accounting."""
    return _ask("squeue", "-h", "-j", job, "-o", "%T") or _accounted(job)[-1].split(" ")[0]


def pending_reason(job: str) -> str:
    """Slurm's reason why a job is pending."""
    return _ask("squeue", "-h", "-j", job, "-o", "%r")


def is_queued(job: str) -> bool:
    """Whether a job, or any element of an array, is pending, running or completing."""
    return bool(_ask("squeue", "-h", "-j", job, "-o", "%T"))


def seconds_left(job: str) -> float:
    """Remaining time of a running job; infinite without a limit."""
    left = _ask("squeue", "-h", "-j", job, "-o", "%L")
    return seconds(left) if left and left[0].isdigit() else float("inf")


def end_of_attempt(job: str, number: int) -> str:
    """Final state of an attempt of a job (0: the first), by accounting; empty without it."""
    return dict(enumerate(_accounted(job, "-D"))).get(number, "")


def _accounted(job: str, *arguments: str) -> list[str]:
    """States of a job, the oldest first; [""] without accounting."""
    return _ask("sacct", "-X", "-n", "-P", "-j", job, *arguments, "-o", "State").splitlines() or [""]


def _rows() -> list[Partition]:
    text = _ask("sinfo", "-h", "-o", "%P|%D|%G|%c|%l")
    if not text:
        raise UserError("Slurm does not respond (`sinfo` fails): try again later, or ask its administrators")
    rows = []
    for line in text.splitlines():
        name, nodes, gres, cpus, limit = line.split("|")
        gpus = [int(count) for count in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", gres)]
        rows.append(Partition(name.rstrip("*"), "*" in name, int(nodes), sum(gpus), int(cpus.rstrip("+")), limit))
    return rows


def _ask(*command: str) -> str:
    """Output of a Slurm command; empty if it is missing or fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""

"""The batch script of a job: resource requests, and the environment of the ranks."""

import shlex
import sys
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from dist_plm.slurm.cluster import Cluster, refuse_control_characters

TOKEN = "token"

# By default a signal that arrives before there is a handler kills Python, and the job would not be requeued. An ignored
# signal stays ignored through exec until the job sets its handler.
PATIENT = """bash -c 'trap "" USR2; exec "$0" "$@"'"""


def python(cluster: Cluster) -> str:
    """The shell command that starts Python on a node."""
    return f"{PATIENT} {cluster.python or shlex.quote(sys.executable)}"


def parameters(cluster: Cluster, *, name: str, folder: Path, code: Path, token: str) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor.

    Args:
        name: Name of the job.
        folder: Folder of scripts and logs.
        code: The code snapshot that the ranks import.
        token: Contents of `folder`/token, which must be visible to every node.

    Raises:
        UserError: A control character in a name: a newline would end a `#SBATCH` line and start a command.
    """
    refuse_control_characters("run_dir", str(folder))
    optional = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "mem": cluster.mem,
        "cpus_per_task": cluster.cpus_per_task,
        "gpus_per_node": cluster.gpus_per_node,
        "array_parallelism": cluster.parallel,
    }
    # Since Slurm 22.05 srun does not inherit --cpus-per-task from the job. A rank that dies ends the others instead of
    # leaving them in a collective.
    cores = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    return {
        "job_name": name,
        "time": cluster.minutes,
        "nodes": cluster.nodes,
        "ntasks_per_node": cluster.ranks_per_node,
        "signal_delay_s": cluster.notice_seconds,
        "wckey": None,
        "setup": [*cluster.setup, *_environment(code), *_shared(folder, token, cluster.nodes)],
        "srun_args": ["--kill-on-bad-exit=1", *cores, *cluster.srun],
        "additional_parameters": {"requeue": True, **{key: value or True for key, value in cluster.sbatch.items()}},
        **{key: value for key, value in optional.items() if value},
    }


def render(folder: Path, asked: dict[str, Any], cluster: Cluster, jobs: int) -> str:
    """The script that would be submitted for `jobs` jobs, rendered without Slurm."""
    command = f"{python(cluster)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    array: dict[str, Any] = {"map_count": jobs} if jobs > 1 else {}
    return str(_make_sbatch_string(command=command, folder=folder, **asked, **array))


def _environment(code: Path) -> list[str]:
    # PYTHONSAFEPATH keeps the current folder, usually the checkout, off the path.
    return [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1"]


def _shared(folder: Path, token: str, nodes: int) -> list[str]:
    """Lines that stop the job if the folder is missing or different on a node."""
    path = shlex.quote(str(folder / TOKEN))
    complaint = shlex.quote(f"does not see {folder.parent}: choose a --run_dir that all nodes share")
    test = f'[ "$(cat {path} 2>/dev/null)" = {shlex.quote(token)} ] || '
    test += f'{{ echo "error: $(hostname)" {complaint} >&2; exit 2; }}'
    return [f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --quiet bash -c {shlex.quote(test)} || exit 2"]

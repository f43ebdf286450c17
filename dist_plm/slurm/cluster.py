"""Resource requests: the schema of configs/clusters/*.yaml, and options of the same names."""

import argparse
import math
import re
import unicodedata
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import docstring_parser
from jsonargparse import ArgumentParser

from dist_plm.cli import shipped
from dist_plm.errors import UserError
from dist_plm.files.plain_yaml import PlainTextLoader, read_yaml


@dataclass(frozen=True)
class Cluster:
    """Resources of a job, named as in Slurm.

    Args:
        nodes: Nodes per run.
        gpus_per_node: GPUs per node, one rank each.
        tasks_per_node: Ranks per node; 0: one per GPU, or one without GPUs.
        cpus_per_task: Cores per rank; 0: the GPU's share of the node.
        mem: Memory per node, such as 480G; 0: all of it.
        partition: Partition (queue).
        account: Account to be charged.
        qos: Quality of service.
        constraint: Required node features.
        exclude: Nodes to exclude.
        time: Time limit per attempt, such as 24:00:00; a run is requeued and resumes until it is complete.
        notice_seconds: Time before the limit at which the ranks are signalled to save a checkpoint.
        max_restarts: How often a run may be requeued, for any reason.
        parallel: Concurrent runs of a sweep, or parts of a data set; 0: all.
        python: Command that starts Python on a node, such as `apptainer exec --nv image.sif python`; empty: this
            interpreter.
        setup: Shell lines at the start of a job, such as `module load cuda`.
        sbatch: Further lines of the script: `mail-type=FAIL` is `#SBATCH --mail-type=FAIL`, `exclusive` a bare flag.
        srun: Further arguments of srun.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 0
    cpus_per_task: int = 0
    mem: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    time: str = "1:00:00"
    notice_seconds: int = 120
    max_restarts: int = 30
    parallel: int = 0
    python: str = ""
    setup: list[str] = field(default_factory=list)
    sbatch: dict[str, str] = field(default_factory=dict)
    srun: list[str] = field(default_factory=list)

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def minutes(self) -> int:
        """The time limit, rounded up as Slurm does."""
        return math.ceil(seconds(self.time) / 60)

    def checked(self) -> "Cluster":
        """Validate, and return itself.

        Raises:
            UserError: Invalid values.
        """
        least = {"nodes": 1, "notice_seconds": 1}
        for name, value in vars(self).items():
            # `setup` and `python` are shell commands by design, of one line each.
            for text in _texts(value):
                refuse_control_characters(f"--{_option(name)}", text)
        for name in (option.name for option in fields(self) if option.type is int):
            if (value := getattr(self, name)) < least.get(name, 0):
                raise UserError(f"--{_option(name)} is {value}: it must be at least {least.get(name, 0)}")
        if self.tasks_per_node and self.gpus_per_node not in (0, self.tasks_per_node):
            raise UserError(
                f"--tasks-per-node {self.tasks_per_node} and --gpus-per-node {self.gpus_per_node}: there is one rank "
                "per GPU; omit --tasks-per-node"
            )
        if 60 * self.minutes <= self.notice_seconds:
            raise UserError(
                f"--time {self.time} is shorter than --notice-seconds {self.notice_seconds}: raise one, or lower "
                "the other"
            )
        return self


def refuse_control_characters(name: str, text: str) -> None:
    """Raise a UserError for a text that does not fit on one line of a batch script."""
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text):
        raise UserError(f"{name} {text!a} has a control character, such as a newline: remove it")


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each key of the schema, and `--cluster FILE` for their defaults."""
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="defaults of these options, configs/clusters/*")
    meanings = {param.arg_name: param.description for param in docstring_parser.parse(str(Cluster.__doc__)).params}
    for option in fields(Cluster):
        several = option.type in (list[str], dict[str, str])
        parser.add_argument(
            f"--{_option(option.name)}",
            action="append" if several else "store",
            metavar="KEY[=VALUE]" if option.type == dict[str, str] else option.name.rpartition("_")[2].upper(),
            help=f"{meanings[option.name]}{' Repeatable.' if several else ''}",
        )


def cluster_of(options: argparse.Namespace) -> Cluster:
    """File, then options on top; lists and mappings add to those of the file.

    Raises:
        UserError: A key or value does not match the schema.
    """
    values = _read(Path(shipped(str(options.cluster)))) if options.cluster else {}
    for option in fields(Cluster):
        given: Any = getattr(options, option.name)
        if given is None:
            continue
        before = values.get(option.name)
        if option.type == dict[str, str]:
            given = {**(before or {}), **dict(pair.partition("=")[::2] for pair in given)}
        elif option.type == list[str]:
            given = [*(before or []), *given]
        values[option.name] = given
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Cluster, as_group=False)
    try:
        parsed = parser.instantiate(parser.parse_object(values)).as_dict()
    except Exception as error:  # jsonargparse derives its error from Exception alone
        where = f"{options.cluster}, or an option: " if options.cluster else ""
        raise UserError(where + " ".join(str(error).split())) from error
    return replace(Cluster(), **parsed).checked()


def seconds(time: str) -> int:
    """A time in any of Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises:
        UserError: none of them.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not match:
        raise UserError(f"time {time!r} has none of the forms M, M:S, H:M:S, D-H, D-H:M, D-H:M:S")
    days, *given = match.groups()
    parts = [int(part) for part in given if part]
    if days or len(parts) == 3:
        hours, minutes, rest = (*parts, 0, 0)[:3]
    else:
        hours, minutes, rest = (0, *parts, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _read(path: Path) -> dict[str, Any]:
    try:
        # Scalars are read as strings: YAML 1.1 would parse 24:00:00 as a sexagesimal number.
        values = read_yaml(path, PlainTextLoader)
    except (OSError, ValueError) as error:
        raise UserError(f"--cluster {path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"--cluster {path} is not a mapping of keys to values")
    return values


def _option(name: str) -> str:
    return name.replace("_", "-")

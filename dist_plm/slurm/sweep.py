"""Hyperparameter sweeps: the product of `--sweep key=values`, each run in a subfolder of the run directory."""

import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dist_plm.cli import config_of
from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.reading import read_document
from dist_plm.train import checked_config, command_line

SWEEP = "sweep.json"


@dataclass(frozen=True)
class SweepRun:
    """A run to be submitted.

    Args:
        path: Its run directory, absolute.
        arguments: Of `python -m dist_plm.train`.
        config: Their configuration.
        values: Values of the sweep, by key.
    """

    path: Path
    arguments: list[str]
    config: Config
    values: dict[str, str] = field(default_factory=dict)


def runs(arguments: list[str], sweeps: list[str], ranks: int, *, build: bool) -> list[SweepRun]:
    """The checked runs of a command, in the order of the product; one run without a sweep.

    Args:
        ranks: Of each run.
        build: Build the demo's data set if it is missing.

    Raises:
        UserError: A run can't start, a sweep is not `key=values`, or names a run twice.
    """
    parser = command_line()
    base = Path(config_of(parser, parser.parse_args(arguments)).run_dir).absolute()
    axes = [parse(text) for text in sweeps]
    keys = [key for key, _ in axes]
    swept = [
        dict(zip(keys, combination, strict=True)) for combination in itertools.product(*(values for _, values in axes))
    ]
    if len({_name(values) for values in swept}) < len(swept):
        raise UserError("--sweep names the same run twice: give each key and each value once")
    swept_runs = []
    for values in swept:
        path = base / _name(values) if values else base
        overrides = [word for key, value in values.items() for word in (f"--{key}", value)]
        resolved = [*arguments, *overrides, "--run_dir", str(path)]
        config = checked_config(parser, parser.parse_args(resolved), ranks, build=build)
        swept_runs.append(SweepRun(path, resolved, config, values))
    return swept_runs


def parse(text: str) -> tuple[str, list[str]]:
    """`seed=0..4` -> ("seed", ["0", "1", "2", "3", "4"]); lists in brackets are one value.

    Raises:
        UserError: It is not of the form key=values.
    """
    key, _, values = text.partition("=")
    try:
        listed = yaml.load(f"[{values}]", yaml.BaseLoader)
    except yaml.YAMLError:
        listed = []
    if not key.strip() or not listed:
        raise UserError(f"--sweep {text}: write key=value,value,... or key=first..last, such as seed=0..4")
    items: list[str] = []
    for value in listed:
        limits = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", value) if isinstance(value, str) else None
        if limits:
            items += map(str, range(int(limits[1]), int(limits[2]) + 1))
        else:
            items.append(value if isinstance(value, str) else json.dumps(value).replace('"', ""))
    if not items:
        raise UserError(f"--sweep {text}: the range is empty")
    return key.strip(), items


def save(folder: Path, swept_runs: list[SweepRun]) -> None:
    """Save the list of runs of a sweep, added to runs of earlier commands."""
    table = {str(run.path): run.values for run in swept_runs}
    known = {path: values for path, values in load(folder) if path not in table}
    with replacing(folder / SWEEP) as file:
        file.write(json.dumps({**known, **table}, indent=1).encode())


def load(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """(run directory, swept values) of each run of a sweep; empty if there is none."""
    path = folder / SWEEP
    try:
        saved = read_document(path) if path.exists() else {}
        if not all(isinstance(values, dict) for values in saved.values()):
            raise ValueError("no values by run")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a list of runs ({error}): choose another folder") from error
    return list(saved.items())


def _name(values: dict[str, str]) -> str:
    return re.sub(r"[^\w.=,+-]+", "-", ",".join(f"{key}={value}" for key, value in values.items()))

"""`dist-plm clean RUN`: remove what a run no longer needs to be used: sweeps, plans, features, older checkpoints.

It prints what it would remove and its size; with --yes it removes. The newest intact checkpoint, the one linked as
best and those of checkpoint.keep_every_epochs stay, as do settings, metrics, report, index and shards. Of a run that
has not ended only older checkpoints go, so that it can be resumed.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from dist_plm.cli import OneLineParser, run_command
from dist_plm.errors import UserError

# Folders that hold what can be computed again, or is of use for a report of neighbourhoods alone.
REMOVED = ("sweeps", "plans", "features", ".index.tmp")


def main() -> int:
    """List or remove."""
    options = _parse()
    from dist_plm.checkpoint.checkpoint import candidates

    for run in options.runs:
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run} is no run directory (no config.yaml): name one that dist_plm.train wrote")
        if not candidates(run / "checkpoints"):
            raise UserError(f"{run} holds no checkpoint, and so nothing that would be left of it: remove the folder")
    total = sum(_clean(run, really=options.yes) for run in options.runs)
    print(f"{total / 1e6:,.1f} MB " + ("removed" if options.yes else "can be removed: repeat with --yes"))
    return 0


def _clean(run: Path, *, really: bool) -> int:
    """Remove, or only list; the number of bytes."""
    from dist_plm.checkpoint.lock import Lock
    from dist_plm.distributed.world import World

    lock = Lock(run, World(), grace_seconds=1) if really else None  # held: no other process uses the run meanwhile
    sizes = {path: size_of(path) for path in removable(run)}
    for path, size in sizes.items():
        print(f"{size / 1e6:12,.1f} MB  {path}")
        if lock:
            # Renamed first: a kill in between leaves nothing half removed under its old name.
            shutil.rmtree(path.rename(path.with_name(f"{path.name}.tmp")) if path.suffix != ".tmp" else path)
    return sum(sizes.values())


def removable(run: Path) -> list[Path]:
    """Folders of a run that can go."""
    from dist_plm.checkpoint.checkpoint import find
    from dist_plm.checkpoint.retention import superseded
    from dist_plm.cli import load_config
    from dist_plm.distributed.world import World
    from dist_plm.training.run_directory import RunDirectory

    config = load_config(run / "config.yaml")
    config.run_dir = str(run)
    newest = find(run / "checkpoints", World())
    assert newest
    paths = superseded(run / "checkpoints", replace(config.checkpoint, keep=1), newest.summary["step"])
    paths += [path for path in (run / "checkpoints").glob("step_*.tmp") if not path.is_symlink()]
    paths += [run / f"{name}.tmp" for name in REMOVED if (run / f"{name}.tmp").is_dir()]
    if RunDirectory(config, force=True).ended:
        paths += [run / name for name in REMOVED if (run / name).is_dir()]
    return paths


def size_of(path: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    return sum(entry.lstat().st_size for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink())


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.clean", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directory")
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)

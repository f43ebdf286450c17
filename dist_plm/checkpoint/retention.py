"""Retention of checkpoints: the newest, those of every N epochs, and the best."""

import os
import re
import shutil
from pathlib import Path

from dist_plm.checkpoint.checkpoint import candidates, summary
from dist_plm.checkpoint.summary import SUMMARY
from dist_plm.config import CheckpointConfig
from dist_plm.files.reading import read_document

BEST = "best"


def is_kept_for_good(epochs: int, batch: int, config: CheckpointConfig) -> bool:
    """Whether a checkpoint after `epochs` whole epochs and `batch` steps is kept by `keep_every_epochs`."""
    return bool(config.keep_every_epochs) and batch == 0 and epochs % config.keep_every_epochs == 0


def drop(folder: Path, config: CheckpointConfig, step: int) -> None:
    """Remove what the checkpoint of `step` supersedes; on one rank. Renamed first: a kill in between leaves no half
    checkpoint."""
    for path in superseded(folder, config, step):
        shutil.rmtree(path.rename(path.with_suffix(".tmp")))


def superseded(folder: Path, config: CheckpointConfig, step: int) -> list[Path]:
    """Checkpoints up to `step` that are neither among the newest `keep`, nor the best, nor one of every
    `keep_every_epochs`.

    Later ones neither go nor count: a run that resumed from `step` or before could not read them.
    """
    best = best_checkpoint(folder)
    older = [path for path in candidates(folder) if path.name <= f"step_{step:08d}"][config.keep :]
    return [path for path in older if path != best and not _is_kept_for_good(path, config)]


def _is_kept_for_good(path: Path, config: CheckpointConfig) -> bool:
    try:
        position = summary(path)["position"]
        return is_kept_for_good(position["epochs"], position["batch"], config)
    except (OSError, ValueError, KeyError, TypeError):  # a damaged one, which can't be resumed
        return False


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of `folder` that is marked as best, None without one.

    `best` is a link, or a file with the checkpoint's name (`mark_best`). In a copy of the run that followed the link
    (`cp -L`, `scp -r`, an object store) it is a folder, and the checkpoint is the one of the same step.
    """
    marked = folder / BEST
    try:
        if marked.is_symlink():
            name = marked.readlink().name
        elif marked.is_file():
            with marked.open("rb") as file:
                name = file.read(100).decode().strip()
        else:
            name = f"step_{read_document(marked / SUMMARY).get('step'):08d}"
    except (OSError, ValueError, TypeError):  # none, or a damaged copy
        return None
    return folder / name if re.fullmatch(r"step_\d+", name) else None


def run_of(path: Path) -> Path:
    """The run directory of RUN/checkpoints/NAME; any other path as it is."""
    inside = path.parent.name == "checkpoints" and (path.parents[1] / "config.yaml").exists()
    return path.parents[1] if inside else path


def mark_best(folder: Path, step: int) -> None:
    """Make `best` a symlink to the checkpoint of `step`; on one rank.

    On a file system without symlinks, as SMB shares and mounted cloud drives may be, a file with its name.
    """
    marked, temporary, copied = folder / BEST, folder / f".{BEST}.tmp", folder / f"{BEST}.tmp"
    name = f"step_{step:08d}"
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(name)
    except OSError:
        temporary.write_text(f"{name}\n", encoding="utf-8")
    if marked.is_dir() and not marked.is_symlink():  # a link can't replace a folder
        marked.rename(copied)
    os.replace(temporary, marked)
    shutil.rmtree(copied, ignore_errors=True)

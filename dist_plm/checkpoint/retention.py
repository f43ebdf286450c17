"""Retention of checkpoints: the newest, those of every N epochs, and the best."""

import os
import shutil
from pathlib import Path

from dist_plm.checkpoint.checkpoint import candidates, summary
from dist_plm.config import CheckpointConfig

BEST = "best"


def is_kept_for_good(epochs: int, batch: int, config: CheckpointConfig) -> bool:
    """Whether a checkpoint after `epochs` whole epochs and `batch` steps is kept by `keep_every_epochs`."""
    return bool(config.keep_every_epochs) and batch == 0 and epochs % config.keep_every_epochs == 0


def drop(folder: Path, config: CheckpointConfig) -> None:
    """Remove superseded checkpoints; on one rank. Renamed first: a kill in between leaves no half checkpoint."""
    for path in superseded(folder, config):
        shutil.rmtree(path.rename(path.with_suffix(".tmp")))


def superseded(folder: Path, config: CheckpointConfig) -> list[Path]:
    """Checkpoints that are neither among the newest `keep`, nor the best, nor one of every `keep_every_epochs`."""
    best = (folder / BEST).resolve()
    older = candidates(folder)[config.keep :]
    return [path for path in older if path.resolve() != best and not _is_kept_for_good(path, config)]


def _is_kept_for_good(path: Path, config: CheckpointConfig) -> bool:
    try:
        position = summary(path)["position"]
        return is_kept_for_good(position["epochs"], position["batch"], config)
    except (OSError, ValueError, KeyError, TypeError):  # a damaged one, which can't be resumed
        return False


def mark_best(folder: Path, step: int) -> None:
    """Point the symlink `best` to the checkpoint of `step`; on one rank."""
    temporary = folder / f".{BEST}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"step_{step:08d}")
    os.replace(temporary, folder / BEST)

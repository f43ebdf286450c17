"""Where data lies: shards in a folder or at a URL, and the folder in which a node keeps what it fetched or decoded."""

import os
from dataclasses import replace
from pathlib import Path

from dist_plm.config import Config, DataConfig
from dist_plm.data.format import MANIFEST


def is_url(place: object) -> bool:
    """Whether a data set lies at a URL, not in a folder."""
    return "://" in str(place)


def cache_folder(data: DataConfig) -> Path:
    """Where a node keeps what it fetched or decoded: `data.cache_dir`, else the user's cache."""
    return Path(data.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dist_plm")


def of_run(config: Config, run: Path) -> Config:
    """The configuration of a run with its data set where it is seen from here.

    A relative `data.shards` was relative to the folder in which training was started. From another folder, or where
    both were moved together, it is looked for from each folder above the run.
    """
    shards = config.data.shards
    if not shards or is_url(shards) or Path(shards).is_absolute() or (Path(shards) / MANIFEST).exists():
        return config
    found = (parent / shards for parent in run.resolve().parents if (parent / shards / MANIFEST).exists())
    return replace(config, data=replace(config.data, shards=str(next(found, shards))))

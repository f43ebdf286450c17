"""Locations of data: shards in a folder or at a URL, and the cache folder of a node."""

import os
from dataclasses import replace
from pathlib import Path

from dist_plm.config import Config, DataConfig
from dist_plm.data.format import MANIFEST


def is_url(place: object) -> bool:
    """Whether the location of a data set is a URL."""
    return "://" in str(place)


def cache_folder(data: DataConfig) -> Path:
    """Cache folder for fetched and decoded images: `data.cache_dir`, else the user's cache."""
    return Path(data.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dist_plm")


def of_run(config: Config, run: Path) -> Config:
    """The configuration of a run with `data.shards` resolved from the current folder.

    A relative `data.shards` is relative to the folder in which training was started. From another folder, or if both
    were moved together, it is looked up from each parent folder of the run.
    """
    shards = config.data.shards
    if not shards or is_url(shards) or Path(shards).is_absolute() or (Path(shards) / MANIFEST).exists():
        return config
    candidates = (parent / shards for parent in run.resolve().parents if (parent / shards / MANIFEST).exists())
    return replace(config, data=replace(config.data, shards=str(next(candidates, shards))))

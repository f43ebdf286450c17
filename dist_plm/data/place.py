"""Where data lies: shards in a folder or at a URL, and the folder in which a node keeps what it fetched or decoded."""

import os
from pathlib import Path

from dist_plm.config import DataConfig


def is_url(place: object) -> bool:
    """Whether a data set lies at a URL, not in a folder."""
    return "://" in str(place)


def cache_folder(data: DataConfig) -> Path:
    """Where a node keeps what it fetched or decoded: `data.cache_dir`, else the user's cache."""
    return Path(data.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dist_plm")
